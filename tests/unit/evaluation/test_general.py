"""What is reported of the agent's answers, with a predictor that says what it is told to."""

import json
from types import SimpleNamespace

import pytest
from PIL import Image

from lens_cache.agent.agent import SEGMENTED
from lens_cache.benchmarks.table import write_rows
from lens_cache.images.png import png_base64
from lens_cache.predictor.checks import require_instruction
from pipelines.evaluation.general import AGENT, BARE, GUESS, evaluate_general
from tests.support.pictures import colours
from tests.support.predictors import BoxPredictor


class Scripted(BoxPredictor):
    """Routes and answers by a word in the question."""

    can_answer = True

    head = SimpleNamespace(
        digest=lambda: "head", fingerprints={"hidden_states": {"weights": "model"}}
    )

    def answer(self, image, text, *, max_new_tokens=256):
        require_instruction(text)
        if text.endswith("\nRoute:"):
            return "segmentation" if "Mark" in text.rpartition("Request: ")[2] else "dialogue"
        return "B" if "right" in text else "C"


@pytest.fixture
def path(tmp_path):
    picture = png_base64(Image.fromarray(colours(20, 20)))
    questions = ["Is it right?", "Is it wrong?", "Mark what is right.", "Is it right? " * 400]
    rows = [
        {
            "index": str(index),
            "image": picture if index == 0 else "0",
            "question": question,
            **{letter: f"option {letter}" for letter in "ABCD"},
            "answer": "B",
            "category": "one" if index < 2 else "two",
        }
        for index, question in enumerate(questions)
    ]
    path = tmp_path / "MMStar.tsv"
    path.write_bytes(write_rows(list(rows[0]), rows))
    return path


def test_routing_costs_what_is_taken_for_a_mask(path, tmp_path):
    found = evaluate_general(Scripted(), path, tmp_path / "out")
    assert {name: row.score for name, row in found.rows.items()} == {
        AGENT: 25, BARE: 50, GUESS: 25,
    }  # fmt: skip
    assert found.rows[AGENT].categories == {"one": 50, "two": 0}
    assert found.rows[BARE].categories == {"one": 50, "two": 50}
    assert found.routes == {"dialogue": 2, "segmentation": 1}
    assert found.refused == 1
    assert found.unclear == {AGENT: 2, BARE: 1}
    lines = (tmp_path / "out/MMStar/answers-000-of-001.jsonl").read_text().splitlines()[1:]
    assert [json.loads(line)["agent"] for line in lines] == ["B", "C", SEGMENTED, ""]
    text = (tmp_path / "out/MMStar/report.md").read_text()
    assert "the agent took 1 of them for something else than dialogue, and refused 1." in text


def test_parts_of_processes_give_the_same_report(path, tmp_path):
    whole = evaluate_general(Scripted(), path, tmp_path / "whole")
    assert evaluate_general(Scripted(), path, tmp_path / "parts", shard=(1, 2)) is None
    assert evaluate_general(Scripted(), path, tmp_path / "parts", shard=(0, 2)) == whole
    for name in ("report.json", "report.md", "predictions.tsv"):
        one, other = (tmp_path / folder / "MMStar" / name for folder in ("whole", "parts"))
        assert one.read_bytes() == other.read_bytes()
