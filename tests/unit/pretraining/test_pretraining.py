"""The training of the two tiny models: what it learns from, and that a few steps learn."""

import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from lens_cache.encoders.llava import LlavaEncoder
from lens_cache.encoders.llava_prompt import LlavaPrompt
from lens_cache.encoders.packed_attention import PACKED_ATTENTION
from lens_cache.encoders.sam_checkpoint import architecture
from lens_cache.errors import ConfigError
from lens_cache.features.packing import additive_mask, block_mask, position_ids
from lens_cache.toy.instructions import sample_instructions
from lens_cache.toy.questions import Question, caption, sample_questions
from lens_cache.toy.scene import HARD, STANDARD, sample_scene
from lens_cache.toy.small_llava import build_llava
from lens_cache.toy.trained_models import (
    SHAPES_LLAVA,
    SHAPES_SAM,
    shapes_processor,
    shapes_tokenizer,
    to_pixels,
)
from lens_cache.toy.vocabulary import WORDS
from pipelines.pretraining.llava import (
    Lesson,
    QuestionTokenizer,
    answers_right,
    make_lesson,
    predict,
)
from pipelines.pretraining.pretrain import Pretraining, build_stage, pretrain
from pipelines.pretraining.sam import ABSENT, POSITIVE, sample_prompts
from pipelines.pretraining.scenes import Scenes, write_scenes
from pipelines.pretraining.stage import Processes, Schedule, fit, run_in_processes
from pipelines.pretraining.tower import LOOKS, shown_things, true_looks
from pipelines.progress import Bars


@pytest.fixture(scope="module")
def tokenizer():
    return shapes_tokenizer(WORDS)


@pytest.fixture(scope="module")
def question_tokenizer(tokenizer):
    return QuestionTokenizer(LlavaPrompt(shapes_processor(tokenizer)))


def few_steps(steps, batch, lr):
    return Schedule(steps=steps, batch=batch, lr=lr, log_every=1, measure_every=steps)


TWO_STEPS = Pretraining(
    scenes={"val": 24, "easy": 48, "train": 48},
    tower=few_steps(2, 2, 1e-3),
    sam=few_steps(2, 1, 1e-3),
    llava=few_steps(2, 1, 1e-3),
    chat=few_steps(2, 1, 1e-3),
)


def test_a_training_leaves_two_models_and_is_not_repeated(trained):
    models = trained / "models"
    assert architecture(models / "sam.pth") == SHAPES_SAM
    assert LlavaEncoder.from_checkpoint(models / "llava", layers=[3]).grid == (12, 12)
    for stage in ("tower", "sam", "llava", "chat"):
        lines = (trained / stage / f"{stage}.jsonl").read_text().splitlines()
        last = json.loads(lines[-1])
        assert last["step"] == 2
        measured = {k: v for k, v in last.items() if k not in ("step", "seconds", "loss")}
        assert measured
        assert all(0 <= value <= 1 for value in measured.values())
    written = {path: path.stat().st_mtime_ns for path in trained.rglob("*") if path.is_file()}
    with Bars() as bars:
        assert pretrain(trained, TWO_STEPS, 1, bars) == models
    assert written == {p: p.stat().st_mtime_ns for p in trained.rglob("*") if p.is_file()}


@pytest.mark.parametrize(
    ("name", "schedule", "falls_to"),
    [
        ("tower", few_steps(25, 8, 3e-3), 0.95),
        ("sam", few_steps(12, 2, 4e-3), 0.95),
        ("llava", few_steps(10, 3, 1e-2), 0.9),
        ("chat", few_steps(10, 3, 1e-2), 0.9),
    ],
)
def test_every_stage_learns_in_a_few_steps(trained, tmp_path, name, schedule, falls_to):
    torch.manual_seed(0)
    stage = build_stage(name, trained, tmp_path, torch.device("cpu"))

    def loss_on_the_same_pictures():
        with torch.no_grad():
            return float(stage.loss(np.random.default_rng(0), 8, 1.0))

    before = loss_on_the_same_pictures()
    fit(stage, schedule, tmp_path, Processes(0, 1, torch.device("cpu")), lambda *_: None)
    assert loss_on_the_same_pictures() < falls_to * before


def average_and_write(processes, folder):
    weights = [torch.nn.Parameter(torch.zeros(2, 3)), torch.nn.Parameter(torch.zeros(4))]
    for number, weight in enumerate(weights):
        weight.grad = torch.full_like(weight, 10.0 * number + processes.rank)
    processes.average(weights)
    torch.save([weight.grad for weight in weights], folder / f"{processes.rank}.pt")


def test_two_processes_share_the_mean_gradient(tmp_path):
    run_in_processes(2, average_and_write, tmp_path)
    for rank in (0, 1):
        first, second = torch.load(tmp_path / f"{rank}.pt")
        assert torch.equal(first, torch.full((2, 3), 0.5))
        assert torch.equal(second, torch.full((4,), 10.5))


def test_too_many_processes_are_refused_in_one_line(tmp_path):
    with Bars() as bars, pytest.raises(ConfigError, match="expected 1 to 8 processes, got 9"):
        pretrain(tmp_path, Pretraining(), 9, bars)
    assert not any(tmp_path.iterdir())


def test_scenes_are_the_same_each_time_and_differ_by_split(tmp_path):
    for name, split in (("a", "train"), ("b", "train"), ("c", "val")):
        write_scenes(tmp_path / name, split, 3, SHAPES_LLAVA.image_side, lambda *_: None)
    a, b, c = (Scenes(tmp_path / name) for name in "abc")
    assert a.scenes == b.scenes
    assert np.array_equal(a.images, b.images)
    assert np.array_equal(a.owner, b.owner)
    assert a.scenes != c.scenes
    assert len(a) == 3


def test_squares_are_what_the_processor_makes_of_the_pictures(tmp_path, tokenizer):
    write_scenes(tmp_path / "x", "val", 2, SHAPES_LLAVA.image_side, lambda *_: None)
    scenes = Scenes(tmp_path / "x")
    processor = shapes_processor(tokenizer).image_processor
    expected = processor(list(np.array(scenes.images)), return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(to_pixels(scenes.squares), expected, atol=1e-6, rtol=0)


def test_every_word_of_the_world_is_one_token(tokenizer):
    rng = np.random.default_rng(0)
    for index in range(60):
        scene = sample_scene(rng, HARD if index % 2 else STANDARD)
        texts = [question.text for question in sample_questions(scene, rng, 20)]
        texts += [question.answer for question in sample_questions(scene, rng, 20)]
        texts += [instruction.text for instruction in sample_instructions(scene, rng)]
        for text in [caption(scene).answer, *texts]:
            tokens = tokenizer.tokenize(text)
            words = "".join(c if c.isalpha() or c == " " else " " for c in text).split()
            marks = sum(not c.isalpha() and c != " " for c in text)
            assert len(tokens) == len(words) + marks, (text, tokens)


def test_the_tower_is_told_what_is_true():
    rng = np.random.default_rng(1)
    scenes = [sample_scene(rng) for _ in range(5)]
    truths = true_looks(scenes)
    assert truths.shape == (5, len(LOOKS))
    for scene, row in zip(scenes, truths, strict=True):
        for looks, value in zip(LOOKS, row, strict=True):
            assert value == any(looks.fits(thing) for thing in scene.things)


def test_a_cell_shows_the_thing_that_covers_most_of_it():
    owner = np.full((8, 8), -1, dtype=np.int8)
    owner[:4, :4] = 2
    owner[0, 0] = 1
    owner[4, 4] = 0  # a sixteenth of its cell: too little
    assert shown_things(owner, 2).tolist() == [2, -1, -1, -1]


@pytest.mark.parametrize("seed", range(5))
def test_sam_is_prompted_with_points_inside_and_outside(seed):
    rng = np.random.default_rng(seed)
    owner = rng.integers(-1, 4, size=(16, 16)).astype(np.int8)
    prompts = sample_prompts(owner, rng)
    for points, labels, mask in zip(prompts.points, prompts.labels, prompts.masks, strict=True):
        assert mask.any()
        meant = set(owner[mask.numpy()].tolist())
        assert np.array_equal(mask.numpy(), np.isin(owner, list(meant))), "whole things"
        hit = set()
        for (x, y), label in zip(points.tolist(), labels.tolist(), strict=True):
            if label == ABSENT:
                continue
            inside = bool(mask[int(y), int(x)])
            assert inside == (label == POSITIVE)
            if inside:
                hit.add(int(owner[int(y), int(x)]))
        assert hit == meant, "a point on every thing that is meant"


def test_only_answers_are_learnt(question_tokenizer, tokenizer):
    rng = np.random.default_rng(2)
    scenes = [sample_scene(rng) for _ in range(3)]
    lesson = make_lesson(scenes, question_tokenizer, rng)
    for row, types in enumerate(lesson.types):
        for number in range(len(types)):
            mine = lesson.owner[row] == number
            ids, answer = lesson.ids[row][mine], lesson.answer[row][mine]
            text = tokenizer.decode(ids)
            question, reply = text.split(" ASSISTANT:")
            assert "USER" not in question
            assert reply.endswith("</s>")
            assert tokenizer.decode(ids[answer]).strip() == reply.strip()


def test_a_packed_lesson_costs_what_its_questions_cost_alone(question_tokenizer, tokenizer):
    torch.manual_seed(0)
    model = build_llava(SHAPES_LLAVA, tokenizer, attention="eager").eval()
    states = torch.randn(1, 144, 128)
    prefix = torch.tensor(question_tokenizer.prefix_ids)
    asked = [Question("x", "Describe the star.", "a red star"), Question("y", "Is it?", "no")]

    def loss(questions):
        rows = [question_tokenizer.ids(question) for question in questions]
        owner = [number for number, (ids, _) in enumerate(rows) for _ in ids]
        answer = [i >= len(ids) - count for ids, count in rows for i in range(len(ids))]
        lesson = Lesson(
            torch.tensor([[token for ids, _ in rows for token in ids]]),
            torch.tensor([owner]),
            torch.tensor([answer]),
            [[question.type for question in questions]],
        )
        logits = predict(model, prefix, states, lesson).float()
        wanted = lesson.ids[lesson.answer]
        right = answers_right(logits, lesson)
        assert set(right) == {question.type for question in questions}
        return F.cross_entropy(logits, wanted, reduction="sum")

    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        model.model.language_model.config._attn_implementation = PACKED_ATTENTION
        together = loss(asked)
        model.model.language_model.config._attn_implementation = "eager"
        alone = sum(loss([question]) for question in asked)
    torch.testing.assert_close(together, alone, rtol=0.02, atol=0.05)


def test_packed_attention_is_attention_under_the_block_mask(tokenizer):
    torch.manual_seed(0)
    network = build_llava(SHAPES_LLAVA, tokenizer, attention="eager").model.language_model
    owner = torch.tensor([[0, 0, 0, 1, 1, 2], [0, 0, 1, 1, -1, -1]])
    shared = 5
    mask = additive_mask(block_mask(shared, owner), torch.float32)
    states, gradients = [], []
    for kind in ("eager", PACKED_ATTENTION):
        network.config._attn_implementation = kind
        torch.manual_seed(1)
        inputs = torch.randn(2, shared + 6, 128, requires_grad=True)
        output = network(
            inputs_embeds=inputs,
            attention_mask=mask,
            position_ids=position_ids(shared, owner),
            use_cache=False,
            num_shared=shared,
        ).last_hidden_state
        (output[:, :shared].sum() + output[0, shared:].square().sum()).backward()
        states.append(output.detach()[:, : shared + 4])
        gradients.append(inputs.grad)
    torch.testing.assert_close(states[1], states[0], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(gradients[1], gradients[0], atol=1e-4, rtol=1e-3)
