import csv
import dataclasses

import pytest

from lens_cache.config.sweep import Published, RowConfig, SweepConfig
from lens_cache.config.train import TrainConfig, TrainerConfig
from lens_cache.errors import TrainingError
from lens_cache.evaluation.baseline_scores import Baselines, Line
from lens_cache.evaluation.intervals import Interval
from lens_cache.evaluation.scores import Score, Scores
from pipelines.sweeps.one_run import Measured, Result
from pipelines.sweeps.plot import draw, plot
from pipelines.sweeps.report import markdown, write_report
from pipelines.sweeps.summary import summarise
from pipelines.sweeps.sweep import Failure, Outcome

PAPER = {
    "full": Published(giou=56.5, ciou=57.3),
    "less": Published(giou=47.9, ciou=47.8),
}
SWEEP = SweepConfig(
    name="small",
    source="a paper, table 2",
    splits=("test", "val"),
    rows=(
        RowConfig(name="full", paper={"test": PAPER["full"]}),
        RowConfig(name="less", set=("loss.attention=0",), paper={"test": PAPER["less"]}),
        RowConfig(name="own <idea>", set=("loss.dice=1",)),
    ),
)


def result(giou, ciou, seconds=60.0):
    one = Measured(giou=giou, ciou=ciou, queries=40)
    return Result(
        config=TrainConfig(trainer=TrainerConfig(max_steps=9)),
        checkpoint="best.ckpt",
        seconds=seconds,
        overall={"test": one, "val": dataclasses.replace(one, giou=giou + 1)},
        groups={split: {"kind": {"class, short": one}} for split in ("test", "val")},
    )


OUTCOME = Outcome(
    results={
        "full": {0: result(60, 50), 1: result(62, 54), 2: result(64, 52)},
        "less": {0: result(50, 50.5), 1: result(53, 53.5), 2: result(53, 52)},
        "own <idea>": {0: result(61, 60), 2: result(66, 62, seconds=120)},
    },
    failures=[Failure("own <idea>", 1, "x.log", ("boom", "exit code 1"))],
)


def test_the_table_holds_mean_spread_and_paired_differences():
    found = summarise(SWEEP, OUTCOME)
    assert found is not None
    full, less, own = found.rows
    assert full.differences == {}
    assert (full.scores["test"]["giou"].mean, full.scores["test"]["giou"].deviation) == (62, 2)
    # 50 - 60, 53 - 62, 53 - 64
    giou = less.differences["giou"]
    assert (giou.measured.mean, giou.measured.deviation, giou.measured.count) == (-10, 1, 3)
    assert giou.published == pytest.approx(-8.6)
    assert giou.verdict == "agrees"
    # 0.5, -0.5, 0
    assert less.differences["ciou"].verdict == "no clear difference"
    # Seeds 0 and 2 alone: 1 and 2 points, standard error 0.5.
    assert own.differences["giou"].measured.count == 2
    assert (own.differences["giou"].direction, own.differences["giou"].verdict) == ("higher", None)
    assert own.seconds.mean == 90


def test_the_text_reports_every_difference():
    found = summarise(SWEEP, OUTCOME)
    assert found is not None
    text = markdown(found, OUTCOME.failures)
    assert "| full | 3 | 62.0 ± 2.0 | 52.0 ± 2.0 |  |  | 9 | 60 | 56.5 / 57.3 |" in text
    assert "- less: `loss.attention=0`" in text
    assert "-10.0 ± 1.0: agrees in sign (published -8.6)." in text
    assert "+0.0 ± 0.5: no clear difference (published -9.5)." in text
    assert "- own <idea>, gIoU: +1.5 ± 0.7: higher." in text
    assert "## gIoU on test by kind" in text
    assert "'own <idea>', seed 1 failed; the end of x.log:\n    boom" in text


def test_the_baselines_are_listed_below_the_first_row():
    def score(percent):
        value = Interval(percent / 100, 0.0, 1.0)
        return Score(queries=40, giou=value, ciou=value)

    scores = Scores(overall=score(41), by_kind={"class, short": score(38)}, by_topic={})
    line = Line(name="attention peak", note="SAM at it", ceiling=False, splits={"test": scores})
    found = summarise(SWEEP, OUTCOME)
    assert found is not None
    lines = Baselines(development="val", lines=[line], notes=["no random thing"])
    text = markdown(found, (), lines)
    table = text[text.index("## Without LENS") :].splitlines()
    assert "| baseline | all | class, short |" in table
    assert "| full | 62.0 ± 2.0 | 62.0 ± 2.0 |" in table
    assert "| attention peak | 41.0 | 38.0 |" in table
    assert {"- attention peak: SAM at it", "- no random thing"} <= set(table)
    assert "## Without LENS" not in markdown(found, ())


def test_a_better_row_where_the_paper_has_a_worse_one_disagrees():
    better = Outcome(results={**OUTCOME.results, "less": OUTCOME.results["own <idea>"]})
    found = summarise(SWEEP, better)
    assert found is not None
    assert found.rows[1].differences["giou"].verdict == "disagrees"


def dots(axes):
    return [dots.get_offsets().tolist() for dots in axes.collections]


def test_the_figure_has_a_dot_per_run():
    found = summarise(SWEEP, OUTCOME)
    assert found is not None
    giou, ciou = draw(found).axes
    assert dots(giou) == [
        [[60, 0], [62, 0], [64, 0]],
        [[50, 1], [53, 1], [53, 1]],
        [[61, 2], [66, 2]],
    ]
    assert [len(row) for row in dots(ciou)] == [3, 3, 2]
    assert [label.get_text() for label in giou.get_yticklabels()] == ["full", "less", "own <idea>"]
    assert [line.get_xdata()[0] for line in giou.lines if line.get_linestyle() == "--"] == [62]


def test_equal_sweeps_give_equal_files():
    found = summarise(SWEEP, OUTCOME)
    assert found is not None
    assert plot(found) == plot(found)
    assert "own &lt;idea&gt;" in plot(found)


def test_without_the_reference_rows_stand_alone():
    results = {name: runs for name, runs in OUTCOME.results.items() if name != "full"}
    found = summarise(SWEEP, Outcome(results=results))
    assert found is not None
    assert all(row.differences == {} for row in found.rows)
    assert "no seed has a result of both full and another row" in markdown(found, ())
    assert all(line.get_linestyle() == "-" for axes in draw(found).axes for line in axes.lines)


def test_without_any_result_there_is_no_report(tmp_path):
    with pytest.raises(TrainingError, match="all 1 runs failed; see their logs"):
        write_report(SWEEP, Outcome(failures=OUTCOME.failures), tmp_path)


def test_the_files_of_a_report(tmp_path):
    report = write_report(SWEEP, OUTCOME, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {
        "small.md",
        "small.json",
        "small.csv",
        "small.svg",
    }
    rows = list(csv.DictReader((tmp_path / "small.csv").open()))
    assert len(rows) == 3 * 2 * 2
    assert rows[0] == {
        "row": "full",
        "split": "test",
        "metric": "giou",
        "seeds": "3",
        "mean": "62.0",
        "standard_deviation": "2.0",
    }
    # The command prints the main table alone.
    assert "## Differences" in (tmp_path / "small.md").read_text()
    assert "## Differences" not in report.text
    assert "| own &lt;idea&gt; | 2 |" in report.text


def test_without_published_figures_there_is_no_column_for_them():
    rows = tuple(dataclasses.replace(row, paper={}) for row in SWEEP.rows)
    found = summarise(dataclasses.replace(SWEEP, rows=rows, source=""), OUTCOME)
    assert found is not None
    assert "published" not in markdown(found, ())
