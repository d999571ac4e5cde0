"""What one visitor of the page has: a picture, an agent, and the masks so far."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lens_cache.agent.agent import LensAgent
from lens_cache.errors import ConfigError
from lens_cache.predictor import Segmentation
from lens_cache.predictor.checks import require_instruction
from pipelines.serve.api import Service

# Most masks of a visitor; the oldest are forgotten first, as in the agent's memory.
MAX_MASKS = 32


class Conversation:
    """What one visitor of the page sees.

    Attributes:
        agent: The agent of the visitor; None for a server that cannot talk.
        pixels: The picture, shape (H, W, 3); None before there is one.
        masks: All masks of the visitor, the oldest first.
        shown: The mask that is shown; None if there is none for the picture.
    """

    def __init__(self, service: Service) -> None:
        self.service = service
        self.agent: LensAgent | None = service.sessions.start()[1] if service.talks else None
        self.pixels: NDArray[np.uint8] | None = None
        self.masks: list[Segmentation] = []
        self.shown: Segmentation | None = None

    def load(self, path: str) -> None:
        """Use another picture."""
        self.pixels = self.service.decode(Path(path).read_bytes())
        self.shown = None
        if self.agent is not None:
            self.agent.set_image(self.pixels)

    def ask(self, text: str) -> str:
        """Send a request; returns the reply in words."""
        require_instruction(text)
        if self.pixels is None:
            return "Please choose a picture first."
        if self.agent is None:
            future = self.service.batcher.segment(self.pixels, [text])
            self._add(future.result(self.service.limits.answer_seconds)[0])
            return "Done."
        agent = self.agent
        call = self.service.batcher.call(lambda: agent(text))
        reply: Any = call.result(self.service.limits.answer_seconds)
        self.service.metrics.routed(reply.route)
        if reply.segmentation is not None:
            self._add(reply.segmentation)
        return str(reply.text)

    def click(self, x: float, y: float, inside: bool) -> None:
        """Correct the mask that is shown by a point in pixels of the picture."""
        shown = self.shown
        if shown is None:
            raise ConfigError("there is no mask to correct yet")
        predictor, agent = self.service.predictor, self.agent

        def correct() -> Segmentation:
            found = predictor.refine(shown, points=[(x, y)], labels=[int(inside)])
            if agent is not None and agent.memory.chosen is shown:
                agent.memory.replace_chosen(found)
            return found

        call = self.service.batcher.call(correct)
        found: Any = call.result(self.service.limits.answer_seconds)
        self.masks[self.masks.index(shown)] = found
        self.shown = found

    def choose(self, number: int) -> None:
        """Show an earlier mask, which follow-ups are about from now on."""
        self.shown = self.masks[number]
        self.pixels = self.shown.image
        if self.agent is not None:
            self.agent.set_image(self.pixels)
            if self.shown in self.agent.memory.masks:
                self.agent.memory.choose(self.agent.memory.masks.index(self.shown) + 1)

    def _add(self, found: Segmentation) -> None:
        self.masks = [*self.masks[1 - MAX_MASKS :], found]
        self.shown = found
