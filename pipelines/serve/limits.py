"""What a server accepts, and how long a request may take."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Limits of one server.

    Attributes:
        max_bytes: Most bytes of a request.
        max_pixels: Most pixels of an image.
        max_instructions: Most instructions of a request.
        max_queue: Most requests that wait; further ones get status 429.
        max_batch: Most instructions that run together.
        body_seconds: Longest time for a client to send a request.
        answer_seconds: Longest time for an answer, the wait included.
        max_sessions: Conversations that are kept; the one that was not used for the longest time
            goes first.
        max_new_tokens: Most tokens of an answer in words.
    """

    max_bytes: int = 20_000_000
    max_pixels: int = 50_000_000
    max_instructions: int = 32
    max_queue: int = 64
    max_batch: int = 32
    body_seconds: float = 30.0
    answer_seconds: float = 120.0
    max_sessions: int = 100
    max_new_tokens: int = 256
