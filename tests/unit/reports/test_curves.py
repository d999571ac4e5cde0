import pytest

from pipelines.reports.curves import chart, draw, read_log


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


def test_curves_share_axes_that_start_at_zero():
    figure = draw({"a/x": [(4, 2.0), (9, 0.0)], "a/_y": [(9, 1.0)]}, ["a/x", "a/_y", "a/z"])
    (axes,) = figure.axes
    assert [line.get_xydata().tolist() for line in axes.lines] == [[[5, 2], [10, 0]], [[10, 1]]]
    assert (axes.get_xlim()[0], axes.get_ylim()[0]) == (0, 0)
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["0 x", "1 _y"]


def test_a_chart_is_an_element_with_the_colours_of_the_page():
    log = {"a/<b>$x$": [(0, 1.0), (9, 2.0)]}
    svg = chart(log, list(log))
    assert svg.startswith("<svg")
    assert "2 &lt;b&gt;$x$" in svg
    assert "stroke: var(--curve-0)" in svg
    assert "var(--ink)" in svg
    assert "#1" not in svg
    assert svg == chart(log, list(log))


@pytest.mark.parametrize("log", [{}, {"train/total": [(0, 1.0)]}])
def test_without_a_logged_value_there_is_no_chart(log):
    assert chart(log, ["val/giou"]) is None
