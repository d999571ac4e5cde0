"""The benchmark of masks, at a size of nothing."""

import json
from dataclasses import replace

import numpy as np
import pytest

from lens_cache.errors import CheckpointError, ConfigError, StoreMismatchError
from lens_cache.predictor import LensPredictor
from pipelines.benchmark import segment as benchmark
from pipelines.benchmark.gpu.scale import TINY
from pipelines.benchmark.segment_report import report_segment
from pipelines.benchmark.segment_stages import IMAGE, REST, SAM, STAGES, stage_clock
from pipelines.benchmark.segment_ways import BATCH, CLICK, FIRST, FURTHER, WAYS, SegmentWork
from pipelines.benchmark.stand_in import stand_in_head
from tests.support.stores import Quiet

TEXTS = ["the dog", "all chairs on the left", "the dog on the left"]


@pytest.fixture(scope="module")
def head():
    with stand_in_head(TINY.pair, dtype="float32", device="cpu") as found:
        yield found


@pytest.fixture
def predictor(head):
    return LensPredictor(head, device="cpu", cache_images=1)


@pytest.fixture
def calls(predictor):
    """The names of the encoders that run, in order."""
    found = []
    for name, module in (
        ("tower", predictor.segmenter.frozen.llava.model.vision_tower),
        ("sam", predictor.segmenter.frozen.sam.model),
    ):
        module.register_forward_hook(lambda *_, name=name: found.append(name))
    return found


def test_a_measurement_is_complete(predictor):
    reporter = Quiet()
    found = benchmark.measure(predictor, reporter, instructions=3, rounds=2)
    assert [way.name for way in found.ways] == [FIRST, FURTHER, BATCH, CLICK]
    assert [len(way.seconds) for way in found.ways] == [2, 6, 2, 2]
    assert [way.masks for way in found.ways] == [1, 1, 3, 1]
    # The first mask is also taken with the clock of the stages.
    assert [way.answers for way in found.ways] == [4, 6, 6, 2]
    assert found.ways[0].ratio == 1
    assert found.batch_ratio > 0
    for way in found.ways:
        assert 0 < way.fastest <= way.median <= way.slowest
        assert way.masks_per_second == pytest.approx(1 / way.median)
        assert way.slowest * way.masks == pytest.approx(max(way.seconds))
    assert reporter.steps[-1] == ("benchmark", 3, 3)

    report = report_segment(found)
    document = json.loads(json.dumps(report.document))
    assert [way["name"] for way in document["ways"]] == list(WAYS)
    assert [stage["name"] for stage in document["stages"]] == list(STAGES)
    assert document["models"] == "a tiny LLaVA and SAM, random weights"
    assert document["images"] == [[640, 480]] * 3
    rows = [line for line in report.text.splitlines() if line.startswith("| ")]
    assert [row.split("|")[1].strip() for row in rows if "---" not in row] == [
        "",
        *WAYS,
        "first mask",
        *STAGES,
    ]
    for fact in ("2 rounds", "3 instructions", "CPU threads", "float32", "640 x 480"):
        assert fact in report.text


def test_every_answer_equals_that_of_its_instruction_alone(predictor):
    found = benchmark.measure(predictor, Quiet(), instructions=5, rounds=1)
    assert found.largest_logit > 0
    for way in found.ways:
        assert way.logit_difference < 1e-4 * found.largest_logit
        # A logit next to the threshold may fall on either side of it.
        assert way.differing_pixels <= 1e-3 * 640 * 480 * way.answers


def test_a_wrong_answer_is_counted(predictor):
    work = SegmentWork(predictor, TEXTS)
    work.answer_alone()
    key = (0, TEXTS[1], False)
    alone = work.alone[key]
    logits = alone.logits.copy()
    logits[0, 0] += 7
    wrong = alone.mask.copy()
    wrong[:2, :3] ^= True
    work.alone[key] = replace(alone, logits=logits, mask=wrong)
    work.round(0)
    for name in (FURTHER, BATCH):
        assert work.differences[name].logits == pytest.approx(7, rel=1e-3)
        assert 6 <= work.differences[name].pixels < 100
    assert work.differences[FIRST].logits < 1e-4


def test_the_stages_add_up_to_the_first_mask(predictor):
    found = benchmark.measure(predictor, Quiet(), instructions=1, rounds=3)
    assert [stage.name for stage in found.stages] == list(STAGES)
    assert sum(stage.share for stage in found.stages) == pytest.approx(1)
    assert all(second > 0 for stage in found.stages for second in stage.seconds)
    work = SegmentWork(predictor, TEXTS)
    work.answer_alone()
    work.round(0)
    parts = [seconds for (seconds,) in work.stages.values()]
    assert sum(parts) == pytest.approx(work.staged[0])


def test_only_a_first_mask_runs_the_encoders(predictor, calls):
    work = SegmentWork(predictor, TEXTS)
    work.answer_alone()
    assert calls == ["tower", "sam"] * len(work.images)
    for number in range(4):
        calls.clear()
        work.round(number)
        assert calls == ["tower", "sam"] * 2  # without and with the clock


def test_a_predictor_is_as_before_after_the_clock(predictor):
    image = np.zeros((20, 30, 3), np.uint8)
    before = predictor(image + 1, "the dog")
    with stage_clock(predictor) as seconds:
        predictor(image, "the dog")
    assert min(seconds.values()) > 0
    assert REST not in seconds
    taken = dict(seconds)
    again = predictor(image, "a tree")  # the image that was encoded under the clock
    predictor(image + 1, "the dog")
    assert seconds == taken
    assert "text_tokens" not in vars(predictor._images.get(image).llava)
    assert "prompts" not in vars(predictor.segmenter.model)
    assert "encode" not in vars(predictor.segmenter.frozen.sam)
    assert again.mask.shape == before.mask.shape

    with stage_clock(predictor) as seconds:
        predictor(image + 1, "the dog")
    assert seconds[IMAGE] > 0  # it was encoded anew
    with stage_clock(predictor) as seconds:
        predictor(image + 1, "the dog")
    assert seconds[IMAGE] == seconds[SAM] == 0


def test_a_head_of_a_folder_is_measured(head, tmp_path):
    head.save(tmp_path)
    found = benchmark.benchmark_segment(
        Quiet(), device="cpu", model=str(tmp_path), instructions=1, rounds=1
    )
    assert found.models == str(tmp_path)
    root = f"encoders.root={tmp_path}"
    with pytest.raises((CheckpointError, StoreMismatchError)):
        benchmark.benchmark_segment(Quiet(), device="cpu", model=str(tmp_path), overrides=[root])


def test_without_a_head_the_weights_are_random(monkeypatch):
    monkeypatch.setattr(benchmark, "CPU_SIZE", TINY.pair)
    found = benchmark.benchmark_segment(Quiet(), device="cpu", instructions=1, rounds=1)
    assert found.models == "a tiny LLaVA and SAM, random weights"
    assert (found.llava_dtype, found.sam_dtype, found.head_precision) == (
        "float32",
        "float32",
        "32-true",
    )


def test_a_stand_in_can_run_in_bfloat16_and_leaves_no_file(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with stand_in_head(TINY.pair, dtype="bfloat16", device="cpu") as head:
        found = benchmark.measure(
            LensPredictor(head, device="cpu", cache_images=1), Quiet(), instructions=2, rounds=1
        )
        assert list(tmp_path.iterdir())
    assert list(tmp_path.iterdir()) == []
    assert found.head_precision == "bf16-mixed"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"run": "R", "model": "M"}, "give one of"),
        ({"model": "M", "full_size": True}, "give one of"),
        ({"model": "M", "which": "best"}, "--checkpoint needs --run"),
        ({"overrides": ("a.b=1",)}, "--set needs --run or --model"),
        ({"full_size": True}, "expected a GPU"),
    ],
)
def test_options_that_contradict_each_other_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        benchmark.benchmark_segment(Quiet(), device="cpu", **options)


@pytest.mark.parametrize("number", [1, 24, 30])
def test_instructions_are_distinct_up_to_24(number):
    found = benchmark.some_instructions(number)
    assert len(found) == number
    assert len(set(found)) == min(number, 24)
