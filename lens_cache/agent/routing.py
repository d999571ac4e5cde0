"""The intent of a request, found by the frozen multimodal LLM with a few-shot prompt.

Source: section S2 of the paper. Its prompt is not published; this one is ours.
"""

from __future__ import annotations

import re
from typing import Literal

Route = Literal["dialogue", "segmentation", "follow-up"]
ROUTES: tuple[Route, ...] = ("dialogue", "segmentation", "follow-up")
# Taken if the answer names no route, or several: an answer in words is what the model does best.
DEFAULT_ROUTE: Route = "dialogue"
# Most tokens of the model's answer.
ROUTE_TOKENS = 8
# The tiny LLaVA of the world of shapes is trained on this prompt; a change needs a new training.
ROUTE_PROMPT = """Name the route of the last request. Answer with one word.
- segmentation: to find, mark, show or outline things.
- follow-up: a question about what was marked before.
- dialogue: all other requests.
Request: Please outline the cup on the left.
Route: segmentation
Request: How many cups are there?
Route: dialogue
Request: What is it made of?
Route: follow-up
Request: the oldest person
Route: segmentation
Request: Thank you.
Route: dialogue
Request: {request}
Route:"""
_NAMES = {
    "dialogue": re.compile(r"\bdialog", re.IGNORECASE),
    "segmentation": re.compile(r"\bsegment", re.IGNORECASE),
    "follow-up": re.compile(r"\bfollow", re.IGNORECASE),
}


def route_question(request: str) -> str:
    """Return the few-shot prompt for a request; line breaks in the request become spaces."""
    return ROUTE_PROMPT.replace("{request}", " ".join(request.split()))


def parse_route(answer: str) -> Route | None:
    """Return the route that the first line of an answer names; None if it names none or several."""
    line = answer.strip().partition("\n")[0]
    named = [route for route in ROUTES if _NAMES[route].search(line)]
    return named[0] if len(named) == 1 else None
