"""The benchmark of extractions, at a size of nothing."""

import dataclasses
import json

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from lens_cache.errors import ConfigError, ExtractionError
from lens_cache.extraction.estimate import decoder_flops, sam_flops, vision_flops
from lens_cache.toy.small_llava import llava_config
from pipelines.benchmark import extract as benchmark
from pipelines.benchmark import extract_report as measurement
from pipelines.benchmark.extract_ways import Work
from pipelines.benchmark.gpu.scale import TINY
from pipelines.benchmark.memory import extra_memory, ready_memory
from pipelines.benchmark.models import FULL_SIZE, build_pair
from tests.support.stores import Quiet

SMALL = TINY.pair


@pytest.fixture(scope="module")
def pair():
    return build_pair(SMALL, torch.float32, "cpu")


@pytest.mark.parametrize("batch", [1, 2, 5])
def test_every_way_computes_the_same(pair, batch):
    work = Work(pair, SMALL, images=3, instructions=2, batch=batch)
    first, *others = [way.run() for way in work.ways()]
    assert first["states"].shape[1] == 64
    assert first["embedding"].shape == (256, 4, 4)
    for other in others:
        for name, value in first.items():
            torch.testing.assert_close(other[name], value, rtol=1e-3, atol=1e-5)


def test_weights_are_shared_and_later_layers_are_not_needed(pair):
    weights = {id(p) for p in [*pair.whole.parameters(), *pair.plain_sam.parameters()]}
    for model in (pair.early, pair.llava.model, pair.sam.model):
        assert {id(p) for p in model.parameters()} <= weights
    assert len(pair.llava.model.language_model.layers) == 2
    assert len(pair.whole.model.language_model.layers) == 5


def test_operations_are_those_that_pytorch_counts(pair):
    """But for patch embeddings, relative positions, and attention that a mask forbids."""
    vision, text = pair.configs
    square = torch.zeros(1, 3, 56, 56)
    with FlopCounterMode(display=False) as tower, torch.inference_mode():
        pair.whole.model.vision_tower(square)
    assert vision_flops(vision) == pytest.approx(tower.get_total_flops(), rel=0.15)
    tokens = torch.zeros(1, 4, 4, 32)
    with FlopCounterMode(display=False) as sam, torch.inference_mode():
        for block in pair.plain_sam.blocks:
            tokens = block(tokens)
    assert sam_flops(SMALL.sam) == pytest.approx(sam.get_total_flops(), rel=0.05)
    dense = decoder_flops(text, 5, 30, []) - 5 * 4 * 64 * 30 * 31 / 2
    # Some versions of PyTorch count nothing for a fused kernel of a CPU.
    plain = sdpa_kernel(SDPBackend.MATH)
    with FlopCounterMode(display=False) as decoder, torch.inference_mode(), plain:
        pair.whole.model.language_model(inputs_embeds=torch.zeros(1, 30, 64))
    full_attention = 5 * 4 * 64 * 30 * 30
    # PyTorch 2.10 also counts the rotary embedding.
    assert decoder.get_total_flops() == pytest.approx(dense + full_attention, rel=1e-4)


def test_what_an_extraction_leaves_out_counts_as_no_work(pair):
    vision, text = pair.configs
    work = Work(pair, SMALL, images=1, instructions=1, batch=1)
    _, early, ours = (way.flops for way in work.ways())
    layer = vision_flops(vision) - vision_flops({**vision, "num_hidden_layers": 2})
    prefix = decoder_flops(text, 2, len(pair.llava.prompt.prefix_ids), [])
    assert ours == pytest.approx(early - layer - prefix)
    assert min(layer, prefix) > 0


def test_questions_behind_one_image_see_it_and_themselves():
    text = {"hidden_size": 4, "num_attention_heads": 2, "intermediate_size": 8}
    alone = [decoder_flops(text, 1, 10, [n]) for n in (3, 5)]
    shared = decoder_flops(text, 1, 10, [])
    assert decoder_flops(text, 1, 10, [3, 5]) == sum(alone) - shared


def test_full_size_is_what_was_published():
    llama = llava_config(FULL_SIZE.llava, 0).text_config.to_dict()
    # 8.2 TFLOP for a whole forward and 5.5 for SAM, as counted by others.
    assert decoder_flops(llama, 32, 611, [25]) / 1e12 == pytest.approx(8.4, abs=0.3)
    assert sam_flops(FULL_SIZE.sam) / 1e12 == pytest.approx(5.5, abs=0.3)


def test_a_measurement_is_complete(monkeypatch):
    monkeypatch.setattr(benchmark, "_CEILING_SECONDS", 0.01)
    found = benchmark.measure(
        SMALL,
        Quiet(),
        dtype="float32",
        device="cpu",
        instructions=2,
        images=2,
        batch=2,
        rounds=2,
    )
    names = ["per instruction", "early exit", "lens-cache"]
    assert [way.name for way in found.ways] == names
    assert found.ways[0].ratio == found.ways[0].cpu_ratio == 1
    for way in found.ways:
        assert way.instructions_per_second == pytest.approx(2 * way.images_per_second)
        assert way.ratio == pytest.approx(found.ways[0].seconds / way.seconds)
        assert way.cpu_ratio == pytest.approx(found.ways[0].cpu_seconds / way.cpu_seconds)
        share = way.tflops_per_second / found.ceiling_tflops_per_second
        assert way.ceiling_share == pytest.approx(share)
        assert way.peak_bytes is None or way.peak_bytes >= way.weights_bytes
    assert found.ways[1].weights_bytes < found.ways[0].weights_bytes
    report = measurement.report_extract(found)
    assert json.loads(json.dumps(report.document))["ways"][2]["name"] == "lens-cache"
    assert all(name in report.text for name in names)
    assert "by CPU time" in report.text
    on_gpu = measurement.report_extract(dataclasses.replace(found, device="a GPU"))
    assert "by CPU time" not in on_gpu.text


def test_ways_that_differ_are_not_compared(monkeypatch):
    monkeypatch.setattr(benchmark, "_TOLERANCE", {"float32": 1e-12})
    with pytest.raises(ExtractionError, match="the ways differ"):
        benchmark.measure(
            SMALL,
            Quiet(),
            dtype="float32",
            device="cpu",
            instructions=1,
            images=1,
            batch=1,
            rounds=1,
        )


def test_full_size_wants_a_gpu():
    with pytest.raises(ConfigError, match="expected a GPU"):
        benchmark.benchmark_extract(Quiet(), full_size=True, device="cpu")


def test_memory_that_is_taken_and_given_back_counts():
    taken = extra_memory(lambda: torch.ones(64 << 18).sum().item(), "cpu")
    assert taken is None or 60 << 20 < taken < 100 << 20


def test_memory_that_was_freed_before_counts_for_the_work_that_takes_it():
    ready_memory(64 << 20)
    taken = extra_memory(lambda: torch.ones(6 << 20).sum().item(), "cpu")
    assert taken is None or taken > 20 << 20
