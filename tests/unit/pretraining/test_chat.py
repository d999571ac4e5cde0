"""The stage that teaches routes and follow-ups changes nothing that LENS reads."""

import numpy as np
import pytest
import torch
from PIL import Image

from lens_cache.agent.routing import ROUTES
from lens_cache.images.overlay import spotlight
from lens_cache.toy.drawing import sample_painted_scene
from pipelines.pretraining.chat import TAPPED_LAYER, TYPE_WEIGHTS, marked_square, token_weights
from pipelines.pretraining.llava import Lesson
from pipelines.pretraining.pretrain import build_stage
from pipelines.pretraining.stage import Processes, fit
from tests.unit.pretraining.test_pretraining import few_steps

CPU = torch.device("cpu")


@pytest.fixture
def stage(trained, tmp_path):
    torch.manual_seed(0)
    return build_stage("chat", trained, tmp_path, CPU)


def states(model, layer):
    """Return hidden states of a sequence of image and text tokens, as LENS reads them."""
    torch.manual_seed(1)
    ids = torch.randint(5, 400, (1, 12))
    pixels = torch.randn(1, 3, 96, 96)
    with torch.no_grad():
        image = model.model.multi_modal_projector(
            model.model.vision_tower(pixel_values=pixels).last_hidden_state[:, 1:]
        )
        language = model.model.language_model
        language.config._attn_implementation = "eager"
        output = language(
            inputs_embeds=torch.cat([image, language.embed_tokens(ids)], dim=1),
            output_hidden_states=True,
        )
    return output.hidden_states[layer]


def test_what_lens_reads_is_frozen_and_the_rest_learns(stage, tmp_path):
    before, after_before = states(stage.model, TAPPED_LAYER), states(stage.model, -1)
    fit(stage, few_steps(4, 4, 5e-3), tmp_path, Processes(0, 1, CPU), lambda *_: None)
    assert torch.equal(states(stage.model, TAPPED_LAYER), before)
    assert not torch.allclose(states(stage.model, -1), after_before)
    trained = {name for name, p in stage.model.named_parameters() if p.requires_grad}
    assert all("lm_head" in n or ".norm." in n or ".layers." in n for n in trained)
    assert not [n for n in trained if ".layers.0." in n or ".layers.1." in n]


def test_lessons_have_routes_talk_follow_ups_and_ordinary_questions(stage):
    rng = np.random.default_rng(0)
    found = {}
    for _ in range(6):
        chosen = np.arange(24)
        squares, rows = stage._lesson(stage._train, chosen, rng)
        assert squares.shape == (24, 96, 96, 3)
        for place, row in enumerate(rows):
            kinds = {kind for _, _, kind in row}
            marked = not np.array_equal(squares[place], stage._train.squares[place])
            assert marked == (kinds == {"follow-up"})
            for ids, count, kind in row:
                found.setdefault(kind, set()).add(ids[-count:-1])
    tokenizer = stage._questions._tokenizer
    routes = {tokenizer.decode(ids).strip() for ids in found["route"]}
    assert routes == set(ROUTES)
    assert {"talk", "follow-up", "attribute", "relation"} < set(found)


def test_every_answer_counts_as_a_whole():
    lesson = Lesson(
        ids=torch.zeros(1, 8, dtype=torch.int64),
        owner=torch.tensor([[0, 0, 0, 1, 1, 1, 2, -1]]),
        answer=torch.tensor([[False, True, True, False, True, False, True, False]]),
        types=[["list", "route", "count"]],
    )
    route = TYPE_WEIGHTS["route"]
    assert token_weights(lesson).tolist() == [0.5, 0.5, route, 1.0]


def test_a_follow_up_shows_the_image_beside_itself_in_a_spotlight():
    painted = sample_painted_scene(np.random.default_rng(3))
    square = marked_square(painted.image, painted.owner, [1])
    assert square.shape == (96, 96, 3)
    assert (square[50:] == 0).all()  # padding
    for half, expected in (
        (square[:48, :48], painted.image),
        (square[:48, 48:], spotlight(painted.image, painted.mask(1))),
    ):
        small = np.asarray(Image.fromarray(expected).resize((48, 48)), dtype=float)
        assert np.abs(half[2:-2, 2:-2] - small[2:-2, 2:-2]).mean() < 8
