"""Benchmarks of general ability and of routing, on drawn shapes, with the tiny agent."""

import csv
import json
import os
import signal
import subprocess
import sys
import time

import pytest

from lens_cache.agent.agent import SEGMENTED
from lens_cache.benchmarks.shapes import write_shapes_benchmarks

FILES = ("MME", "MMBench_DEV_EN", "MMMU_DEV_VAL", "MMStar")


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("general") / "files"
    write_shapes_benchmarks(folder, 4, seed=3)
    return folder


@pytest.fixture(scope="module")
def out(files):
    """The reports of all four, by the command line in a process."""
    command = ["general", *(files / f"{name}.tsv" for name in FILES), "--out", files.parent / "out"]
    finished = subprocess.run(
        [sys.executable, "-m", "pipelines", *map(str, command)],
        capture_output=True, text=True, timeout=900,
    )  # fmt: skip
    assert finished.returncode == 0, finished.stderr
    return files.parent / "out"


def rows(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file, delimiter="\t"))


def test_files_are_the_same_each_time(files, tmp_path):
    write_shapes_benchmarks(tmp_path / "again", 4, seed=3)
    for path in files.rglob("*"):
        if path.is_file():
            assert path.read_bytes() == (tmp_path / "again" / path.relative_to(files)).read_bytes()


@pytest.mark.parametrize("name", FILES)
def test_a_report_has_agent_bare_model_and_guess(out, name):
    report = json.loads((out / name / "report.json").read_text())
    agent, bare, guess = (
        report["rows"][m]["score"] for m in ("LENS agent", "bare MLLM", "random guess")
    )
    assert 0 <= agent <= bare  # dialogue is the bare model's; anything else is wrong
    assert guess > 0
    if name != "MMBench_DEV_EN":  # all four rotations of few questions are rarely all right
        assert guess < bare
    assert sum(report["routes"].values()) == report["questions"] > 0
    predictions = rows(out / name / "predictions.tsv")
    assert len(predictions) == report["questions"]
    assert all("prediction" in row and "image" not in row for row in predictions)


def test_a_question_that_is_taken_for_a_mask_gets_the_fixed_reply(out):
    for name in FILES:
        lines = (out / name / "answers-000-of-001.jsonl").read_text().splitlines()[1:]
        for answer in map(json.loads, lines):
            assert (answer["agent"] == SEGMENTED) == (answer["route"] == "segmentation")
            assert answer["route"] != "dialogue" or answer["agent"] == answer["bare"]


def test_shards_give_the_report_of_one_process(out, files, tmp_path, lens_cache):
    command = ["general", files / "MMStar.tsv", "--out", tmp_path]
    code, text, err = lens_cache(*command, "--shard", "0/2")
    assert code == 0, err
    assert "others are not" in text
    assert not (tmp_path / "MMStar/report.json").exists()
    code, _, err = lens_cache(*command, "--shard", "1/2")
    assert code == 0, err
    for name in ("report.json", "predictions.tsv"):
        assert (tmp_path / "MMStar" / name).read_bytes() == (out / "MMStar" / name).read_bytes()


def test_a_killed_benchmark_resumes_with_the_same_bytes(out, files, tmp_path):
    command = [
        sys.executable,
        "-m",
        "pipelines",
        "general",
        str(files / "MME.tsv"),
        "--out",
        str(tmp_path),
    ]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    path = tmp_path / "MME/answers-000-of-001.jsonl"
    deadline = time.monotonic() + 600
    while not (path.exists() and path.read_bytes().count(b"\n") >= 3):
        assert process.poll() is None, "it ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.002)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    with path.open("ab") as file:
        file.write(b'{"index": 3, "ro')
    finished = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert finished.returncode == 0, finished.stderr
    for name in ("report.json", "predictions.tsv", path.name):
        assert (tmp_path / "MME" / name).read_bytes() == (out / "MME" / name).read_bytes()


def test_answers_of_another_file_are_not_resumed(out, files, tmp_path, lens_cache):
    other = tmp_path / "MME.tsv"
    other.write_text((files / "MME.tsv").read_text().replace("Is there", "Is not there", 1))
    code, _, err = lens_cache("general", other, "--out", out)
    assert code == 2
    assert "has the answers of another model or file" in err


def test_routing_counts_calls_and_scores_masks(files, tmp_path, lens_cache):
    command = ["routing", files / "routing.jsonl", "--out", tmp_path, "--json"]
    code, text, err = lens_cache(*command)
    assert code == 0, err
    found = json.loads(text)
    everything = found["tiers"]["all"]
    assert everything["requests"] == len((files / "routing.jsonl").read_text().splitlines())
    assert everything["end_to_end"]["value"] <= everything["called"]["value"]
    assert everything["called"]["value"] > 0.4
    assert found["tiers"]["dialogue"]["missed_calls"] is None
    assert found["tiers"]["explicit"]["false_calls"] is None
    before = (tmp_path / "report.json").read_bytes()
    assert lens_cache(*command)[0] == 0
    assert (tmp_path / "report.json").read_bytes() == before


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 1: Expecting property name"),
        ("[]", "line 1: expected an object"),
        ('{"request": " "}', "expected a request, found ' '"),
        ('{"request": "a", "route": "talk"}', "expected a route of dialogue, segmentation"),
        ('{"request": "a", "route": "dialogue", "tier": "x"}', "expected a tier of dialogue"),
        (
            '{"request": "a", "route": "dialogue", "tier": "mixed", "image": "../a.png"}',
            "leads outside the root",
        ),
        ("", "expected a request on each line, found none"),
    ],
)
def test_bad_requests_are_named(tmp_path, line, message, lens_cache):
    path = tmp_path / "requests.jsonl"
    path.write_text(line)
    code, _, err = lens_cache("routing", path, "--out", tmp_path / "out")
    assert code == 1
    assert message in err
