"""Batches of images against images alone, and what a failure costs."""

import numpy as np
import pytest
import torch
from transformers import LlavaModel

from lens_cache.encoders.llava import LlavaEncoder
from lens_cache.encoders.reference import PlainLlava, PlainSam
from lens_cache.encoders.sam import SamEncoder
from lens_cache.extraction.batch_runner import BatchRunner
from lens_cache.extraction.device_errors import DeviceError
from lens_cache.extraction.feature_models import HiddenStates, ImageEmbeddings, Picture
from lens_cache.features.packing import STEP, additive_mask, block_mask, position_ids
from lens_cache.features.sizes import round_up
from lens_cache.features.transfer import Arrival, Transfer
from lens_cache.images.geometry import image_to_square
from tests.support.llava import QUESTIONS, close, picture, text_ids

# One image with three questions, one without any, one with a single long one.
ASKED = [QUESTIONS, [], ["a very long question about the red circle " * 3]]
NO_MEMORY = RuntimeError("[enforce fail at DefaultCPUAllocator] you tried to allocate 9 bytes")


@pytest.fixture(scope="module")
def llava(tiny_checkpoints):
    return LlavaEncoder.from_checkpoint(tiny_checkpoints / "llava", layers=(3, 14))


@pytest.fixture(scope="module")
def sam(tiny_checkpoints):
    return SamEncoder.from_checkpoint(tiny_checkpoints / "sam.pth")


def encode_batch(encoder, asked=ASKED):
    pixels = [encoder.pixels(picture(seed)) for seed in range(len(asked))]
    return encoder.encode_batch(pixels, [text_ids(encoder.prompt, *q) for q in asked])


def test_a_batch_equals_plain_forwards(llava, tiny_checkpoints):
    plain = PlainLlava.from_checkpoint(tiny_checkpoints / "llava")
    batch = encode_batch(llava)
    for layer in (3, 14):
        assert batch.image_tokens[layer].shape == (3, 144, 64)
        lengths = [len(ids) for asked in ASKED for ids in text_ids(llava.prompt, *asked)]
        text = iter(torch.split(batch.text_tokens[layer], lengths))
        for image, questions in enumerate(ASKED):
            for question in questions:
                prefix, tokens, words = plain.states(picture(image), question, (layer,))[layer]
                close(llava.prefix[layer], prefix)
                close(batch.image_tokens[layer][image], tokens)
                close(next(text), words)
        alone = plain.states(picture(1), "anything", (layer,))[layer]
        close(batch.image_tokens[layer][1], alone[1])


@pytest.mark.parametrize("limit", [4096, 60, 10])
def test_the_limit_on_packed_tokens_changes_no_state(llava, monkeypatch, limit):
    expected = encode_batch(llava)
    monkeypatch.setattr("lens_cache.encoders.llava.MAX_TEXT_TOKENS", limit)
    found = encode_batch(llava)
    for layer in (3, 14):
        close(found.image_tokens[layer], expected.image_tokens[layer])
        close(found.text_tokens[layer], expected.text_tokens[layer])


def test_forwards_behind_the_prefix_equal_one_packed_forward_with_it(llava, tiny_checkpoints):
    """The prefix runs once: what every image finds remembered is what it would have computed."""
    asked = text_ids(llava.prompt, *QUESTIONS)
    features = llava.encode(picture(), asked)
    plain = LlavaModel.from_pretrained(tiny_checkpoints / "llava", dtype=torch.float32)
    prefix, length = torch.tensor([llava.prompt.prefix_ids]), sum(map(len, asked))
    owner = torch.tensor([[i for i, text in enumerate(asked) for _ in text]])
    with torch.inference_mode():
        image = plain.get_image_features(llava.pixels(picture())[None]).pooler_output[0][None]
        embed = plain.language_model.embed_tokens
        words = torch.tensor([[token for text in asked for token in text]])
        shared = prefix.shape[1] + image.shape[1]
        states = plain.language_model(
            inputs_embeds=torch.cat([embed(prefix), image, embed(words)], dim=1),
            position_ids=position_ids(shared, owner),
            attention_mask=additive_mask(block_mask(shared, owner), torch.float32),
            output_hidden_states=True,
            use_cache=False,
        ).hidden_states
    for layer in (3, 14):
        parts = states[layer][0].split([prefix.shape[1], image.shape[1], length])
        close(features.prefix[layer], parts[0])
        close(features.image_tokens[layer], parts[1])
        close(torch.cat(features.text_tokens[layer]), parts[2])


def test_the_prefix_runs_once(tiny_checkpoints, monkeypatch):
    """No forward holds its rows again, and what the layers remember is what images see."""
    llava = LlavaEncoder.from_checkpoint(tiny_checkpoints / "llava", layers=(3, 14))
    seen = []
    language = llava.model.language_model
    forward = language.forward
    monkeypatch.setattr(
        language, "forward", lambda **k: seen.append(k["inputs_embeds"].shape) or forward(**k)
    )
    before = encode_batch(llava)
    longest = max(sum(map(len, text_ids(llava.prompt, *asked))) for asked in ASKED)
    assert seen == [(3, 144 + round_up(longest, STEP), 64)]
    with torch.inference_mode():
        language.layers[0].self_attn.prefix_value.add_(1)
    assert (encode_batch(llava).image_tokens[3] - before.image_tokens[3]).abs().max() > 0.01


def test_a_batch_of_images_without_questions_is_run(llava):
    nothing, some = encode_batch(llava, [[], []]), encode_batch(llava)
    for layer in (3, 14):
        close(nothing.image_tokens[layer], some.image_tokens[layer][:2])
        assert nothing.text_tokens[layer].shape == (0, 64)


def test_sam_in_batches_equals_segment_anything(sam, tiny_checkpoints):
    plain = PlainSam.from_checkpoint(tiny_checkpoints / "sam.pth")
    sizes = [(200, 120), (120, 200), (256, 256)]
    images = [picture(seed, 256)[:height, :width] for seed, (width, height) in enumerate(sizes)]
    expected = torch.stack([plain.encode(image) for image in images])
    squares = [image_to_square(image, 256) for image in images]
    close(sam.encode_batch(squares, sizes), expected)
    fused = SamEncoder.from_checkpoint(tiny_checkpoints / "sam.pth", fused=True)
    close(fused.encode_batch(squares, sizes), expected)
    half = SamEncoder.from_checkpoint(
        tiny_checkpoints / "sam.pth", dtype=torch.bfloat16, fused=True
    )
    close(half.encode_batch(squares, sizes).float(), expected, tolerance=0.1)


def test_sam_reads_its_relative_positions(tiny_checkpoints):
    """Without the biases the fused attention would be another function."""
    fused = SamEncoder.from_checkpoint(tiny_checkpoints / "sam.pth", fused=True)
    square = picture(0, 256)
    before = fused.encode(square, width=256, height=256)
    for block in fused.model.blocks:
        block.attn.offsets.zero_()
    assert (fused.encode(square, width=256, height=256) - before).abs().max() > 0.01


# Failures


class Fake:
    """A model whose features are the number that a picture is made of, and that can fail."""

    stage = "fake"

    def __init__(self, fails=lambda pictures: None):
        self.fails, self.batches = fails, []

    def run(self, pictures, texts):
        numbers = [int(p.square[0, 0, 0]) for p in pictures]
        self.batches.append(numbers)
        error = self.fails(numbers)
        if error is not None:
            raise error
        values = torch.tensor(numbers, dtype=torch.float32)[:, None]
        return {"value": torch.where(values == 99, torch.nan, values)}

    def split(self, values, texts):
        return [{name: value[i] for name, value in values.items()} for i in range(len(texts))]


def painted(number):
    return Picture(np.full((2, 2, 3), number, np.uint8), None, 2, 2)


def run(model, numbers, size):
    runner = BatchRunner(model, Transfer("cpu"), painted(0), size)
    pictures = [None if n is None else painted(n) for n in numbers]
    outcomes, _ = runner.collect(runner.launch(pictures, [[] for _ in numbers]))
    return runner, {
        place: found if isinstance(found, str) else float(found["value"][0])
        for place, found in outcomes.items()
    }


def test_only_the_image_that_fails_fails_and_every_batch_has_the_same_shape():
    model = Fake(lambda numbers: RuntimeError("bad one") if 3 in numbers else None)
    runner, found = run(model, [1, 2, 3, 4, 5], size=4)
    assert found == {0: 1, 1: 2, 2: "RuntimeError: bad one", 3: 4, 4: 5}
    assert runner.size == 4
    # Before the image is blamed, a batch of blanks is run.
    alone = [[1, 0, 0, 0], [0, 2, 0, 0], [0, 0, 3, 0], [0, 0, 0, 0], [0, 0, 0, 4]]
    assert model.batches == [[1, 2, 3, 4], *alone, [5]]


def test_an_image_that_cannot_be_run_leaves_a_blank():
    model = Fake()
    _, found = run(model, [None, 2, None, None], size=2)
    assert found == {1: 2}
    assert model.batches == [[0, 2]]


@pytest.mark.parametrize("error", [NO_MEMORY, torch.OutOfMemoryError("CUDA out of memory")])
def test_memory_that_runs_out_halves_the_batch_for_good(error):
    model = Fake(lambda numbers: error if len(numbers) > 2 else None)
    runner, found = run(model, [1, 2, 3, 4, 5, 6, 7, 8, 9], size=8)
    assert found == {place: place + 1 for place in range(9)}
    assert runner.size == 2
    assert [len(batch) for batch in model.batches] == [8, 4, 2, 2, 2, 2, 1]


def test_an_image_too_large_for_the_memory_is_given_up_alone():
    model = Fake(lambda numbers: NO_MEMORY if 2 in numbers else None)
    runner, found = run(model, [1, 2, 3], size=2)
    assert runner.size == 1
    assert found[0] == 1
    assert found[2] == 3
    assert "DefaultCPUAllocator" in found[1]


def test_values_that_are_not_finite_are_one_images_fault():
    _, found = run(Fake(), [1, 99, 3], size=3)
    assert found == {0: 1, 1: "values that are not finite in value", 2: 3}


@pytest.mark.parametrize(
    "error",
    [
        torch.AcceleratorError("CUDA error: uncorrectable ECC error encountered"),
        RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling cublasGemmEx"),
        RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"),
        RuntimeError("cuDNN Frontend error: No valid engine configs"),
        RuntimeError("CUDA driver error: unknown error"),
    ],
)
@pytest.mark.parametrize("numbers", [[1], [1, 2, 3, 4]])
def test_a_device_that_fails_is_no_images_fault(error, numbers):
    model = Fake(lambda numbers: error)
    with pytest.raises(DeviceError, match=r"the device failed .* no image is to blame"):
        run(model, numbers, size=4)
    assert len(model.batches) == 1


def test_what_a_device_reports_late_is_no_images_fault(monkeypatch):
    def wait(arrival):
        raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(Arrival, "wait", wait)
    with pytest.raises(DeviceError, match="illegal memory access"):
        run(Fake(), [1, 2], size=2)


@pytest.mark.parametrize("status", ["CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_ALLOC_FAILED"])
def test_libraries_of_the_device_without_memory_halve_the_batch(status):
    model = Fake(lambda n: RuntimeError(f"CUDA error: {status}") if len(n) > 1 else None)
    runner, found = run(model, [1, 2, 3, 4], size=4)
    assert found == {0: 1, 1: 2, 2: 3, 3: 4}
    assert runner.size == 1


@pytest.mark.parametrize("numbers", [[1], [1, 2, 3]])
def test_a_model_that_fails_on_blanks_too_blames_no_image(numbers):
    with pytest.raises(DeviceError, match="a batch of blank images fails too"):
        run(Fake(lambda numbers: RuntimeError("a kernel is missing")), numbers, size=4)


# Rounding


def states(llava, sam, numbers, size):
    """Return the features of pictures of the given seeds, run in batches."""
    texts = [text_ids(llava.prompt, *QUESTIONS) for _ in numbers]
    pictures = [
        None
        if number is None
        else Picture(picture(number, 256), llava.pixels(picture(number, 256)), 256, 256)
        for number in numbers
    ]
    blank = np.zeros((256, 256, 3), np.uint8)
    found = []
    for model in (HiddenStates(llava), ImageEmbeddings(sam)):
        runner = BatchRunner(
            model, Transfer("cpu"), Picture(blank, llava.pixels(blank), 256, 256), size
        )
        outcomes, _ = runner.collect(runner.launch(pictures, texts))
        found.append(outcomes)
    return [{**found[0][place], **found[1][place]} for place in found[0]]


def test_bits_depend_on_the_shape_of_a_batch_and_on_nothing_else_in_it(llava, sam):
    """Why an image that fails leaves a blank: the others keep their bits (invariant I1).

    That the shape does show was seen on x86 with AVX-512: alone and in a batch of three, states of
    the same image differ in their last bits. Other kernels may be kinder, so it is not asserted.
    """
    whole = states(llava, sam, [0, 1, 2], size=3)
    others = states(llava, sam, [7, 1, None], size=3)
    for name, value in whole[1].items():
        assert torch.equal(others[1][name], value), name
    alone = states(llava, sam, [1], size=1)[0]
    for name, value in whole[1].items():
        close(value, alone[name])
