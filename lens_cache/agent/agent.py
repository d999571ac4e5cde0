"""The agent of Algorithm S1: one frozen multimodal LLM that talks, segments and follows up."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from lens_cache.agent.memory import Memory
from lens_cache.agent.routing import (
    DEFAULT_ROUTE,
    ROUTE_TOKENS,
    Route,
    parse_route,
    route_question,
)
from lens_cache.errors import ConfigError
from lens_cache.images.inputs import ImageInput, rgb_pixels
from lens_cache.images.overlay import side_by_side, spotlight
from lens_cache.predictor.predictor import LensPredictor
from lens_cache.predictor.segmentation import Segmentation

# The fixed reply of Algorithm S1, line 7.
SEGMENTED = "Sure, the segmentation result is generated."


class Talker(Protocol):
    """A multimodal LLM that answers in words: ``LensPredictor`` or ``ChatEndpoint``."""

    def answer(self, image: ImageInput, text: str, *, max_new_tokens: int = 256) -> str:
        """Return the answer to a text about an image."""


@dataclass(frozen=True, kw_only=True)
class Reply:
    """The agent's reply to one request.

    Attributes:
        text: What it says.
        route: What it did.
        routed: What the multimodal LLM answered when it was asked for the route.
        understood: Whether that named a route; if not, the default was taken.
        segmentation: The mask, for the route ``segmentation``, otherwise None.
        overlay: Algorithm S1's overlay of it: the image, darkened outside the mask.
    """

    text: str
    route: Route
    routed: str
    understood: bool
    segmentation: Segmentation | None = None
    overlay: Image.Image | None = None


class LensAgent:
    """Algorithm S1 of the paper, for one conversation.

    The multimodal LLM decides what a request asks for. Dialogue goes to the untouched model;
    segmentation goes to the head; a follow-up is answered over the image beside the overlay of the
    mask that was last chosen.

    Attributes:
        predictor: Makes the masks.
        memory: The masks so far.

    Example:
        >>> agent = LensAgent(LensPredictor.from_pretrained("shapes", chat=True))
        >>> agent.set_image("picture.png")
        >>> agent("Please mark the red ring.").overlay.save("overlay.png")
        >>> agent("What size is it?").text
        'small'
    """

    def __init__(
        self, predictor: LensPredictor, talker: Talker | None = None, *, max_new_tokens: int = 256
    ) -> None:
        """Start a conversation.

        Args:
            predictor: Makes the masks; with ``chat=True`` it also talks.
            talker: Routes and talks instead of the predictor's own multimodal LLM.
            max_new_tokens: Most tokens of an answer.

        Raises:
            ConfigError: If there is no talker and the predictor was loaded without ``chat=True``.
        """
        if talker is None and not predictor.can_answer:
            raise ConfigError(
                "starting an agent: the predictor cannot talk; load it with chat=True, or give a "
                "talker"
            )
        self.predictor = predictor
        self.memory = Memory()
        self._talker = talker or predictor
        self._max_new_tokens = max_new_tokens
        self._image: NDArray[np.uint8] | None = None

    def set_image(self, image: ImageInput) -> None:
        """Choose the image of the next requests; masks of earlier images stay in memory.

        Raises:
            ImageError: If the image cannot be read.
        """
        self._image = rgb_pixels(image)

    @property
    def image(self) -> NDArray[np.uint8] | None:
        """The image of the next requests, RGB, shape (H, W, 3); None before ``set_image``."""
        return self._image

    def __call__(self, text: str, image: ImageInput | None = None) -> Reply:
        """Reply to a request.

        Args:
            text: The request.
            image: As for ``set_image``; the last image if not given.

        Raises:
            ConfigError: If the request is empty or too long, or there is no image.
            ImageError: If the image cannot be read.
            ServiceError: If the talker is a server that does not answer.
        """
        if image is not None:
            self.set_image(image)
        pixels = self._require_image()
        routed, route = self._route(text, pixels)
        taken = route or DEFAULT_ROUTE
        marked = self.memory.chosen
        if taken == "follow-up" and marked is None:
            # Algorithm S1, line 11, runs itself again, which would choose the same route again.
            taken = DEFAULT_ROUTE
        found, overlay = None, None
        if taken == "segmentation":
            found, answer = self.predictor(pixels, text), SEGMENTED
            self.memory.add(found)
            overlay = Image.fromarray(spotlight(pixels, found.mask))
        elif taken == "follow-up" and marked is not None:
            answer = self.follow_up(marked, text)
        else:
            answer = self._talk(pixels, text)
        return Reply(
            text=answer,
            route=taken,
            routed=routed,
            understood=route is not None,
            segmentation=found,
            overlay=overlay,
        )

    def route(self, text: str, image: ImageInput | None = None) -> tuple[str, Route | None]:
        """Ask what a request asks for, without acting on it; arguments as for a request.

        Returns:
            The answer of the multimodal LLM, and the route that it names; None if it names none.
        """
        pixels = self._require_image() if image is None else rgb_pixels(image)
        return self._route(text, pixels)

    def follow_up(self, marked: Segmentation, text: str) -> str:
        """Answer a question about any mask, over the image beside its overlay."""
        return self._talk(follow_up_image(marked), text)

    def correct(self, *, points: ArrayLike, labels: ArrayLike) -> Segmentation:
        """Correct the chosen mask by clicks; see ``LensPredictor.correct``.

        Raises:
            ConfigError: If there is no mask, or a point is outside the image.
        """
        chosen = self.memory.chosen
        if chosen is None:
            raise ConfigError("correcting: nothing was segmented yet")
        found = self.predictor.refine(chosen, points=points, labels=labels)
        self.memory.replace_chosen(found)
        return found

    def _route(self, text: str, pixels: NDArray[np.uint8]) -> tuple[str, Route | None]:
        answer = self._talker.answer(pixels, route_question(text), max_new_tokens=ROUTE_TOKENS)
        return answer, parse_route(answer)

    def _talk(self, pixels: NDArray[np.uint8], text: str) -> str:
        return self._talker.answer(pixels, text, max_new_tokens=self._max_new_tokens)

    def _require_image(self) -> NDArray[np.uint8]:
        if self._image is None:
            raise ConfigError("replying: there is no image yet; call set_image(image) first")
        return self._image


def follow_up_image(marked: Segmentation) -> NDArray[np.uint8]:
    """Return ``Concat(I, Overlay(I, mask))`` of Algorithm S1, shape (H, 2 W, 3)."""
    return side_by_side(marked.image, spotlight(marked.image, marked.mask))
