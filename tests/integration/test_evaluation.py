"""Evaluation from a store, by the frozen models, from files; killed and resumed; on workers."""

import json
import os
import re
import signal
import subprocess
import sys
import time

import pytest

from lens_cache.config.load import load_config
from lens_cache.config.train import TrainConfig
from lens_cache.evaluation.baseline_scores import ORACLE, baselines
from lens_cache.images.masks import decode
from lens_cache.store.store import Store
from lens_cache.toy.world import write_world
from pipelines.demo.shapes_settings import extract_config
from pipelines.evaluation import parts
from pipelines.extraction.extract import extract
from pipelines.extraction.runners import run_in_process
from pipelines.training.train import train
from tests.support.stores import Quiet

# One name a file of the report, equal for the same masks.
MASKS = ("samples.jsonl", "predictions.jsonl", "targets.jsonl")


@pytest.fixture(scope="module")
def shapes(tmp_path_factory):
    """The folder of a small world and its store."""
    folder = tmp_path_factory.mktemp("evaluation")
    write_world(folder / "world", {"test": 20, "val": 4, "absent": 6}, seed=2)
    extract(folder / "store", extract_config(folder / "world"), Quiet(), run_in_process)
    return folder


def of_data(shapes):
    return ["-c", "shapes", "--set", f"data.root={shapes / 'world'}"]


@pytest.fixture(scope="module")
def stored(shapes):
    """The report of the packaged head on the store, by the command line in a process."""
    command = ["evaluate", "--model", "shapes", "--split", "test", "--panels", "2"]
    finished = run(*command, "--store", shapes / "store", "--out", shapes / "stored")
    assert finished.returncode == 0, finished.stderr
    return shapes / "stored"


def run(*arguments):
    command = [sys.executable, "-m", "pipelines", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=900)


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def same_masks(one, other):
    return all((one / name).read_bytes() == (other / name).read_bytes() for name in MASKS)


def test_a_report_has_scores_samples_masks_and_panels(stored, shapes):
    report = json.loads((stored / "report.json").read_text())
    assert report["images"] == 20
    queries = report["overall"]["queries"]
    assert report["overall"]["giou"]["value"] > 0.6
    assert set(report["overall"]["precision"]) == {"0.5", "0.7", "0.9"}
    assert report["confidence"]["curve"]["risk"]["0.5"] < report["confidence"]["curve"]["random"]
    assert all(len(lines(stored / name)) == queries for name in MASKS)
    assert len(list((stored / "panels").glob("*.png"))) == 2
    assert not (stored / parts.PARTS).exists()
    assert "| boundary IoU |" in (stored / "report.md").read_text()


def differing_pixels(one, other):
    """Return the share of the pixels in which the masks of two reports differ."""
    pairs = zip(lines(one / MASKS[1]), lines(other / MASKS[1]), strict=True)
    found = [(decode(a["mask"]) != decode(b["mask"])).mean() for a, b in pairs]
    return sum(found) / len(found)


@pytest.fixture(scope="module")
def computed(shapes):
    """The report of the packaged head whose frozen models run now."""
    command = ["evaluate", "--model", "shapes", "--split", "test", "--panels", "0"]
    finished = run(*command, *of_data(shapes), "--out", shapes / "computed")
    assert finished.returncode == 0, finished.stderr
    return shapes / "computed"


def test_frozen_models_that_run_now_agree_with_the_store(stored, computed):
    # In bfloat16 the last bits of a state depend on how many questions run together.
    assert (computed / MASKS[2]).read_bytes() == (stored / MASKS[2]).read_bytes()
    assert differing_pixels(computed, stored) < 5e-4
    scores = [json.loads((one / "report.json").read_text()) for one in (computed, stored)]
    values = [score["overall"]["giou"]["value"] for score in scores]
    assert values[0] == pytest.approx(values[1], abs=2e-3)


def test_in_float32_the_masks_are_those_of_the_store(
    tiny_store, tiny_coco, tiny_checkpoints, tmp_path, lens_cache
):
    config = load_config(TrainConfig, None, ["preset=tiny", "trainer.max_steps=4"])
    train(tmp_path / "run", tiny_store, config, resume=False)
    command = ["evaluate", tmp_path / "run", "--split", "train2017", "--panels", "0"]
    data = [
        "-c", "coco", "--set", f"data.root={tiny_coco}", "--set",
        f"encoders.root={tiny_checkpoints}",
    ]  # fmt: skip
    for name, source in (("stored", ["--store", tiny_store]), ("computed", data)):
        code, _, err = lens_cache(*command, *source, "--out", tmp_path / name)
        assert code == 0, err
    assert differing_pixels(tmp_path / "computed", tmp_path / "stored") == 0


def test_a_split_that_the_store_lacks_is_read_from_the_data(shapes, tmp_path, lens_cache):
    command = ["evaluate", "--model", "shapes", "--split", "nothing", "--out", tmp_path / "out"]
    code, _, err = lens_cache(*command, "--store", shapes / "store")
    assert code == 1
    assert "it has absent (" in err
    code, _, err = lens_cache(*command, "--store", shapes / "store", *of_data(shapes))
    assert code == 1
    assert "choosing split 'nothing' of" in err
    assert "it has absent (" in err


def test_ray_workers_give_the_same_bytes(stored, shapes):
    out = shapes / "on_ray"
    finished = run(
        "evaluate", "--model", "shapes", "--split", "test", "--panels", "0", "--workers", "2",
        "--store", shapes / "store", "--out", out,
    )  # fmt: skip
    assert finished.returncode == 0, finished.stderr
    assert same_masks(out, stored)


def test_a_killed_evaluation_resumes_with_the_same_bytes(computed, shapes):
    out = shapes / "killed"
    command = [
        sys.executable, "-m", "pipelines", "evaluate", "--model", "shapes", *of_data(shapes),
        "--split", "test", "--panels", "0", "--out", out,
    ]  # fmt: skip
    process = subprocess.Popen(
        list(map(str, command)), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    first = parts.part_file(out, 0)
    deadline = time.monotonic() + 600
    while not (first.exists() and parts.num_answered(first) >= 3):
        assert process.poll() is None, "the evaluation ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.002)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not (out / "report.json").exists()
    with first.open("ab") as file:
        file.write(b'[{"sample": {"inters')  # as a write that was cut short
    finished = run(*command[3:])
    assert finished.returncode == 0, finished.stderr
    assert same_masks(out, computed)


def test_answers_of_another_head_are_not_resumed(stored, shapes, tmp_path, lens_cache):
    out = tmp_path / "out"
    (out / parts.PARTS).mkdir(parents=True)
    (out / parts.PARTS / parts.KEY_FILE).write_text('{"head": "another"}')
    parts.part_file(out, 0).write_text("[]\n" * 16)
    code, _, err = lens_cache(
        "evaluate", "--model", "shapes", "--split", "test", "--panels", "0",
        "--store", shapes / "store", "--out", out,
    )  # fmt: skip
    assert code == 0
    assert "starting over" in err
    assert same_masks(out, stored)


@pytest.fixture
def predicted(stored, tmp_path):
    """Return the predictions of the head as lines to change, and where to write them."""
    path = tmp_path / "predictions.jsonl"
    return lines(stored / "predictions.jsonl"), path


def score(lens_cache, shapes, found, path, *more):
    path.write_text("".join(json.dumps(line) + "\n" for line in found))
    return lens_cache(
        "evaluate", "--predictions", path, "--split", "test", "--out", path.parent / "out",
        "--store", shapes / "store", *more,
    )  # fmt: skip


def test_predictions_of_a_file_get_the_scores_of_the_head(stored, shapes, predicted, lens_cache):
    found, path = predicted
    code, _, err = score(lens_cache, shapes, found[::-1], path)
    assert code == 0, err
    report = json.loads((path.parent / "out/report.json").read_text())
    assert report["overall"] == json.loads((stored / "report.json").read_text())["overall"]
    assert report["confidence"]["curve"]["random"] == pytest.approx(
        1 - report["overall"]["giou"]["value"]
    )


def test_masks_in_lists_are_united_and_null_is_an_empty_mask(shapes, predicted, lens_cache):
    found, path = predicted
    whole, empty = found[0]["mask"], found[1]["mask"]
    found[0] = {"query_id": found[0]["query_id"], "masks": [whole, whole], "scores": [0.2, 0.8]}
    found[1] = {"query_id": found[1]["query_id"], "mask": None, "score": 0.1}
    assert empty is not None
    code, _, err = score(lens_cache, shapes, found, path)
    assert code == 0, err
    scored = lines(path.parent / "out/predictions.jsonl")
    assert scored[0] == {"query_id": found[0]["query_id"], "mask": whole, "score": 0.8}
    assert lines(path.parent / "out/samples.jsonl")[1]["predicted_area"] == 0


def _other_size(found):
    found[2]["mask"] = {"size": [2, 2], "counts": [4]}


def _same_id(found):
    found[2]["query_id"] = found[1]["query_id"]


def _unknown_id(found):
    found[2]["query_id"] = "nobody"


def _broken_mask(found):
    found[2]["mask"]["counts"] = "~~~"


def _no_number(found):
    found[2]["score"] = "high"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_other_size, r"has the size \[2, 2\], expected the \[height, width\]"),
        (_same_id, "line 3: a second line for the query"),
        (_unknown_id, r"found 1 predictions of ids that the split does not have \(nobody\)"),
        (list.pop, r"found 1 queries of the split without a prediction"),
        (_broken_mask, "line 3: the counts are not a compressed COCO"),
        (_no_number, "line 3: expected a finite score, found 'high'"),
    ],
)
def test_bad_predictions_are_named(shapes, predicted, lens_cache, change, message):
    found, path = predicted
    change(found)
    code, out, err = score(lens_cache, shapes, found, path)
    assert (code, out) == (1, "")
    assert re.search(message, err), err
    assert err.strip().count("\n") == 0


def test_queries_are_listed_for_other_methods(stored, shapes, tmp_path, lens_cache):
    path = tmp_path / "queries.jsonl"
    code, out, err = lens_cache("queries", path, "--split", "test", *of_data(shapes))
    assert code == 0, err
    found = lines(path)
    assert f"{len(found)} queries about 20 images" in out
    assert [line["query_id"] for line in found] == [
        line["query_id"] for line in lines(stored / "targets.jsonl")
    ]
    assert (shapes / "world" / found[0]["image"]).exists()
    assert found[0]["instruction"] == lines(stored / "samples.jsonl")[0]["instruction"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "expected one of RUN, --model and --predictions"),
        (["--model", "shapes", "--predictions", "x"], "expected one of RUN"),
        (["--model", "shapes"], "expected --store STORE or -c FILE"),
    ],
)
def test_a_method_and_data_are_needed(arguments, message, lens_cache):
    code, _, err = lens_cache("evaluate", "--split", "test", *arguments)
    assert code == 2
    assert message in err


def test_a_store_of_other_frozen_models_is_refused(tiny_store, lens_cache, tmp_path):
    code, _, err = lens_cache(
        "evaluate", "--model", "shapes", "--split", "train2017", "--out", tmp_path,
        "--store", tiny_store,
    )  # fmt: skip
    assert code == 2
    assert "the features of" in err or "the group hidden_states" in err


@pytest.fixture
def worse(stored, shapes, tmp_path, lens_cache):
    """The evaluation of the head's predictions with a quarter of the masks emptied."""
    found = lines(stored / "predictions.jsonl")
    for line in found[::4]:
        line["mask"] = None
    code, _, err = score(lens_cache, shapes, found, tmp_path / "worse.jsonl")
    assert code == 0, err
    return tmp_path / "out"


def test_two_methods_are_compared_query_by_query(stored, worse, shapes, tmp_path, lens_cache):
    out = tmp_path / "compared"
    code, text, err = lens_cache(
        "compare", stored, worse, "--out", out, "--data-root", shapes / "world", "--json"
    )
    assert code == 0, err
    found = json.loads(text)["groups"]["all"]
    before, after = (lines(folder / "samples.jsonl") for folder in (stored, worse))
    change = [b["iou"] - a["iou"] for a, b in zip(before, after, strict=True)]
    assert found["difference"]["gIoU"]["value"] == pytest.approx(sum(change) / len(change))
    assert found["difference"]["gIoU"]["high"] < 0
    assert found["losses"] == sum(one < -0.01 for one in change) > 0
    assert found["wins"] == 0
    page = (out / "index.html").read_text()
    assert page.count("data:image/jpeg;base64,") == 3 * 12
    assert "http" not in page.replace("http-equiv", "")
    ordered = sorted(zip(change, before, strict=True), key=lambda pair: pair[0])
    assert ordered[0][1]["instruction"] in page
    code, _, err = lens_cache("compare", stored, stored, "--out", tmp_path / "same")
    assert code == 0, err
    assert "+0.0 (+0.0 to +0.0)" in (tmp_path / "same/report.md").read_text()


def test_evaluations_of_other_queries_are_not_compared(stored, worse, tmp_path, lens_cache):
    kept = (worse / "samples.jsonl").read_text().splitlines(keepends=True)[1:]
    (worse / "samples.jsonl").write_text("".join(kept))
    code, _, err = lens_cache("compare", stored, worse, "--out", tmp_path / "compared")
    assert code == 1
    assert "found 1 that only one of them has" in err
    code, _, err = lens_cache("compare", stored, tmp_path, "--out", tmp_path / "compared")
    assert code == 1
    assert "expected the folder of an evaluation" in err


def test_queries_without_a_target_are_scored(shapes, tmp_path, lens_cache):
    code, text, err = lens_cache(
        "evaluate", "--model", "shapes", "--split", "absent", "--store", shapes / "store",
        "--panels", "3", "--out", tmp_path,
    )  # fmt: skip
    assert code == 0, err
    assert "N-acc" in text
    report = json.loads((tmp_path / "report.json").read_text())["overall"]
    samples = lines(tmp_path / "samples.jsonl")
    absent = [sample for sample in samples if sample["target_area"] == 0]
    assert 0.2 < len(absent) / len(samples) < 0.5
    empty = sum(sample["predicted_area"] == 0 for sample in absent)
    assert report["n_acc"]["value"] == pytest.approx(empty / len(absent))
    assert all(sample["iou"] == (sample["predicted_area"] == 0) for sample in absent)
    assert report["t_acc"]["value"] > 0.9


def test_queries_without_a_target_can_be_trained_on(shapes, tmp_path):
    config = load_config(
        TrainConfig,
        None,
        [
            "preset=shapes", "trainer.max_steps=3", "trainer.validate_every=3",
            "batch.split=absent", "batch.validation_split=val",
        ],
    )  # fmt: skip
    done = train(tmp_path / "run", shapes / "store", config, resume=False)
    assert all(value.isfinite().all() for value in done.load_model("last").parameters())


def test_probe_and_baselines_leave_out_what_has_no_target(shapes, tmp_path, lens_cache):
    code, text, err = lens_cache("probe", shapes / "store", "--split", "absent", "--json")
    assert code == 0, err
    found = json.loads(text)
    assert found["without_target"] > 0
    plan = Store(shapes / "store").plan
    assert found["queries"] + found["without_target"] == plan.splits()["absent"]
    measured = baselines(Store(shapes / "store"), ["absent"], development="val")
    oracle = {line.name: line for line in measured.lines}[ORACLE].splits["absent"]
    assert oracle.overall.n_acc.value == 1


def test_the_gallery_is_one_page_that_opens_offline(shapes, tmp_path, lens_cache):
    path = tmp_path / "gallery.html"
    code, text, err = lens_cache(
        "gallery", "--model", "shapes", "--split", "test", "--store", shapes / "store",
        "--out", path, "--json",
    )  # fmt: skip
    assert code == 0, err
    found = json.loads(text)
    assert 0 < found["passed"] <= found["pairs"]
    page = path.read_text()
    for heading in ("Best, median and worst", "One image, two instructions", "Failures"):
        assert heading in page
    images = re.findall(r'<img src="([^"]*)"', page)
    # Three answers of each kind and eight failures, four pictures each; four pairs of five.
    assert len(images) == 4 * (3 * 4 + 8) + 4 * 5
    assert all(image.startswith("data:image/jpeg;base64,") for image in images)
    assert not re.search(r"(?:src|href)=.?https?:", page)


def test_costs_are_measured_and_stand_in_the_table(tmp_path, lens_cache):
    command = ["benchmark", "cost", "--out", tmp_path / "cost", "--steps", "2", "--json"]
    code, text, err = lens_cache(*command)
    assert code == 0, err
    found = json.loads(text)
    assert found == json.loads((tmp_path / "cost/report.json").read_text())
    assert found["calls"] == 1
    assert 0 < found["frozen_gb"] < found["training_gb"] < 4
    assert found["extraction_s"] > 0
    code, text, err = lens_cache("table", "cost", tmp_path / "cost", "--out", tmp_path)
    assert code == 0, err
    assert "| shapes | cpu |" in text
