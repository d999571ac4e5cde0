"""The tables of an evaluation: by kind always, by topic where the dataset names one."""

import dataclasses

import pytest

from lens_cache.evaluation.scores import Sample, score_all
from pipelines.evaluation.report import Evaluation, markdown
from pipelines.evaluation.report import evaluation as report_evaluation


def sample(number, topic, intersection):
    return Sample(
        query_id=f"q{number}",
        image_id=f"i{number}",
        image="a.png",
        dataset="jsonl",
        instruction="the box",
        kind="referring",
        length="short",
        topic=topic,
        intersection=intersection,
        union=10,
        iou=intersection / 10,
        target_area=10,
        predicted_area=intersection,
        target_share=0.1,
    )


SAMPLES = [sample(0, "shape", 10), sample(1, "colour", 0), sample(2, "shape", 5), sample(3, "", 7)]


@pytest.fixture
def found():
    return Evaluation(
        method="runs/a",
        checkpoint="best.ckpt",
        data="store",
        split="val",
        limit=None,
        images=4,
        quarantined=0,
        **vars(score_all(SAMPLES)),
        folder="out",
    )


def test_samples_without_a_topic_are_in_no_topic(found):
    assert list(found.by_topic) == ["colour", "shape"]
    assert [score.queries for score in found.by_topic.values()] == [1, 2]
    assert found.by_topic["shape"].giou.value == pytest.approx(0.75, abs=1e-5)
    assert found.overall.queries == 4


def test_topics_stand_in_every_form_of_the_report(found):
    assert "| topic | number | gIoU | cIoU |" in markdown(found)
    assert "| shape | 2 | 75.0 " in markdown(found)
    shown = report_evaluation(found)
    assert any(line.split()[:3] == ["topic", "shape", "2"] for line in shown.text.splitlines())
    assert shown.document["by_topic"]["colour"]["queries"] == 1


def test_without_topics_there_is_no_table_by_topic(found):
    plain = dataclasses.replace(found, by_topic={})
    assert "topic" not in markdown(plain)
    assert "topic" not in report_evaluation(plain).text
