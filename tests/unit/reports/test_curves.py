import pytest

from pipelines.reports.curves import HEIGHT, WIDTH, chart, read_log


def write(run, number, text):
    (run / "logs" / number).mkdir(parents=True)
    (run / "logs" / number / "metrics.csv").write_text(text)


def test_a_resumed_run_is_one_curve_whose_later_file_wins(tmp_path):
    write(tmp_path, "000", "epoch,step,train/total,val/giou\n0,9,2.0,\n0,9,,0.1\n0,19,1.5,\n")
    write(tmp_path, "001", "epoch,step,train/total\n0,19,1.0\n0,39,0.5\n")
    assert read_log(tmp_path) == {
        "train/total": [(9, 2.0), (19, 1.0), (39, 0.5)],
        "val/giou": [(9, 0.1)],
    }
    assert read_log(tmp_path / "nothing") == {}


def test_curves_share_their_axes():
    found = chart({"a/x": [(4, 2.0), (9, 0.0)], "a/y": [(9, 1.0)]}, ["a/x", "a/y", "a/z"])
    assert (found.top, found.steps) == (2.0, 10)
    assert [(curve.name, curve.last) for curve in found.curves] == [("x", 0.0), ("y", 1.0)]
    points = [tuple(map(float, point.split(","))) for point in found.curves[0].points.split()]
    assert points == [pytest.approx((WIDTH / 2, 0)), pytest.approx((WIDTH, HEIGHT))]


def test_what_was_not_logged_is_no_chart():
    assert chart({}, ["val/giou"]) is None
