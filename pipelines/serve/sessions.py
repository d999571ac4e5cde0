"""Conversations of the clients of a server."""

from __future__ import annotations

import secrets
from collections import OrderedDict
from threading import Lock

from lens_cache.agent.agent import LensAgent, Talker
from lens_cache.predictor import LensPredictor


class Sessions:
    """One agent for each conversation, the last ones kept.

    Args:
        predictor: Makes the masks.
        talker: Talks instead of the predictor's own multimodal LLM.
        capacity: Most conversations that are kept.
        max_new_tokens: Most tokens of an answer.
    """

    def __init__(
        self, predictor: LensPredictor, talker: Talker | None, *, capacity: int, max_new_tokens: int
    ) -> None:
        self._predictor = predictor
        self._talker = talker
        self._capacity = capacity
        self._max_new_tokens = max_new_tokens
        self._agents: OrderedDict[str, LensAgent] = OrderedDict()
        self._lock = Lock()

    def start(self) -> tuple[str, LensAgent]:
        """Start a conversation; returns its name, which cannot be guessed, and its agent."""
        agent = LensAgent(self._predictor, self._talker, max_new_tokens=self._max_new_tokens)
        name = secrets.token_urlsafe(16)
        with self._lock:
            self._agents[name] = agent
            while len(self._agents) > self._capacity:
                self._agents.popitem(last=False)
        return name, agent

    def get(self, name: str) -> LensAgent | None:
        """Return the agent of a conversation; None if it is not kept."""
        with self._lock:
            agent = self._agents.get(name)
            if agent is not None:
                self._agents.move_to_end(name)
            return agent
