"""Algorithm S1, line by line, with a predictor and a talker that record what they are asked."""

import dataclasses

import numpy as np
import pytest

from lens_cache.agent.agent import SEGMENTED, LensAgent
from lens_cache.agent.routing import DEFAULT_ROUTE, ROUTE_TOKENS, route_question
from lens_cache.errors import ConfigError
from lens_cache.images.overlay import side_by_side, spotlight
from lens_cache.predictor.segmentation import Segmentation
from tests.support.pictures import colours

PICTURE, OTHER = colours(12, 8), colours(6, 6)


def segmentation(pixels, text):
    mask = np.zeros(pixels.shape[:2], bool)
    mask[2:4, 1:3] = True
    return Segmentation(
        image=pixels,
        instruction=text,
        mask=mask,
        logits=np.where(mask, 1.0, -1.0).astype(np.float32),
        score=0.5,
        calibrated=False,
        keypoints=np.zeros((0, 2), np.float32),
        keypoint_labels=np.zeros(0, np.int64),
        normalised_keypoints=np.zeros((0, 2), np.float32),
        grounding_map=np.zeros((2, 2), np.float32),
    )


class Predictor:
    """Routes by the first word of a request, and answers with what it was asked."""

    can_answer = True

    def __init__(self):
        self.asked = []

    def __call__(self, pixels, text):
        return segmentation(pixels, text)

    def refine(self, found, *, points, labels):
        return dataclasses.replace(found, instruction=f"{found.instruction} {points} {labels}")

    def answer(self, image, text, *, max_new_tokens=256):
        self.asked.append((image, text, max_new_tokens))
        if text.endswith("\nRoute:"):
            request = text.rpartition("Request: ")[2]
            return request.split()[0]
        return f"answer to {text}"


@pytest.fixture
def agent():
    agent = LensAgent(Predictor(), max_new_tokens=99)
    agent.set_image(PICTURE)
    return agent


def test_dialogue_goes_to_the_model_with_the_image(agent):
    reply = agent("dialogue please")
    assert (reply.route, reply.understood) == ("dialogue", True)
    assert reply.text == "answer to dialogue please"
    assert reply.segmentation is None
    assert reply.overlay is None
    (route, question) = agent.predictor.asked
    assert route[1:] == (route_question("dialogue please"), ROUTE_TOKENS)
    assert question[1:] == ("dialogue please", 99)
    for image, *_ in (route, question):
        np.testing.assert_array_equal(image, PICTURE)


def test_a_mask_has_the_fixed_reply_an_overlay_and_a_place_in_memory(agent):
    reply = agent("segmentation of it")
    assert (reply.route, reply.text) == ("segmentation", SEGMENTED)
    assert SEGMENTED == "Sure, the segmentation result is generated."
    assert reply.segmentation.instruction == "segmentation of it"
    np.testing.assert_array_equal(
        np.asarray(reply.overlay), spotlight(PICTURE, reply.segmentation.mask)
    )
    assert agent.memory.masks == [reply.segmentation]
    assert agent.memory.chosen is reply.segmentation


def test_a_follow_up_is_asked_about_image_and_overlay_side_by_side(agent):
    marked = agent("segmentation").segmentation
    agent.set_image(OTHER)  # the mask is still that of the first picture
    reply = agent("follow-up question")
    assert (reply.route, reply.text) == ("follow-up", "answer to follow-up question")
    image, text, _ = agent.predictor.asked[-1]
    np.testing.assert_array_equal(image, side_by_side(PICTURE, spotlight(PICTURE, marked.mask)))
    assert image.shape == (8, 24, 3)
    assert text == "follow-up question"
    # The route was decided with the picture that is shown.
    np.testing.assert_array_equal(agent.predictor.asked[-2][0], OTHER)


def test_a_follow_up_before_any_mask_and_an_answer_without_a_route_take_the_default(agent):
    for text, understood in (("follow-up first", True), ("nonsense", False)):
        reply = agent(text)
        assert (reply.route, reply.understood) == (DEFAULT_ROUTE, understood)
        assert reply.text == f"answer to {text}"
    assert reply.routed == "nonsense"


def test_follow_ups_are_about_the_chosen_mask(agent):
    first = agent("segmentation 1").segmentation
    second = agent("segmentation 2", OTHER).segmentation
    assert agent.memory.masks == [first, second]
    assert agent.memory.choose(1) is first
    agent("follow-up")
    assert agent.predictor.asked[-1][0].shape == (8, 24, 3)
    for number in (0, 3):
        with pytest.raises(ConfigError, match="a number from 1 to 2"):
            agent.memory.choose(number)
    agent.memory.clear()
    with pytest.raises(ConfigError, match="there is none yet"):
        agent.memory.choose(1)


def test_a_correction_replaces_the_chosen_mask(agent):
    with pytest.raises(ConfigError, match="nothing was segmented"):
        agent.correct(points=[(1, 1)], labels=[1])
    first = agent("segmentation 1").segmentation
    second = agent("segmentation 2").segmentation
    agent.memory.choose(1)
    found = agent.correct(points=[(1, 1)], labels=[1])
    assert agent.memory.masks == [found, second]
    assert agent.memory.chosen is found is not first


def test_memory_is_bounded(agent):
    for number in range(40):
        agent(f"segmentation {number}")
    assert len(agent.memory.masks) == 32
    assert agent.memory.masks[-1].instruction == "segmentation 39"


def test_an_agent_needs_a_talker_and_a_picture():
    silent = Predictor()
    silent.can_answer = False
    with pytest.raises(ConfigError, match="chat=True"):
        LensAgent(silent)
    agent = LensAgent(silent, Predictor())
    with pytest.raises(ConfigError, match="set_image"):
        agent("dialogue")
    assert agent("dialogue", PICTURE).route == "dialogue"
    assert agent.route("segmentation", PICTURE) == ("segmentation", "segmentation")
