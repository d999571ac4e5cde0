"""The agent of the world of shapes on scenes and wordings that its models have not seen.

Every scene is asked for routes in held-out and in taught wordings, for answers in words, and for
follow-ups about a mask: about the true one, and about the one that the agent itself makes.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from lens_cache.agent.agent import LensAgent
from lens_cache.agent.routing import DEFAULT_ROUTE, ROUTES
from lens_cache.predictor import LensPredictor
from lens_cache.progress import Progress, no_progress
from lens_cache.toy.drawing import PaintedScene, sample_painted_scene
from lens_cache.toy.instructions import sample_instructions
from lens_cache.toy.questions import sample_questions
from lens_cache.toy.requests import follow_ups, sample_request
from pipelines.reports.markdown import table
from pipelines.reports.report import Report

# First number of the seed of a scene: no world and no training uses it.
SEED = 1015
REQUESTS, QUESTIONS, FOLLOW_UPS = 4, 3, 3
TAUGHT, HELD_OUT = "taught wordings", "held-out wordings"


@dataclass(frozen=True, kw_only=True)
class AgentAccuracy:
    """How often the agent is right.

    Attributes:
        scenes: Number of scenes.
        routes: By wordings and true route, how often each route was taken.
        unparsed: Answers that named no route, so that the default was taken.
        answers: By type of question (right, asked), in words and greedily decoded.
        follow_ups: By mask, ``true`` or ``predicted``, and question (right, asked).
    """

    scenes: int
    routes: dict[str, dict[str, dict[str, int]]]
    unparsed: int
    answers: dict[str, tuple[int, int]]
    follow_ups: dict[str, dict[str, tuple[int, int]]]


def measure_agent(
    predictor: LensPredictor, scenes: int, *, seed: int = 0, progress: Progress = no_progress
) -> AgentAccuracy:
    """Measure the agent on ``scenes`` drawn scenes; the predictor must be able to answer."""
    agent = LensAgent(predictor)
    routes: dict[str, dict[str, dict[str, int]]] = {
        wordings: {route: dict.fromkeys(ROUTES, 0) for route in ROUTES}
        for wordings in (HELD_OUT, TAUGHT)
    }
    answers: dict[str, list[bool]] = defaultdict(list)
    followed: dict[str, dict[str, list[bool]]] = {
        "true": defaultdict(list),
        "predicted": defaultdict(list),
    }
    unparsed = 0
    for index in range(scenes):
        rng = np.random.default_rng([SEED, seed, index])
        painted = sample_painted_scene(rng)
        agent.set_image(painted.image)
        for wordings in (HELD_OUT, TAUGHT) * REQUESTS:
            request = sample_request(painted.scene, rng, held_out=wordings == HELD_OUT)
            _, route = agent.route(request.text)
            routes[wordings][request.route][route or DEFAULT_ROUTE] += 1
            unparsed += route is None
        for question in sample_questions(painted.scene, rng, QUESTIONS):
            said = predictor.answer(painted.image, question.text)
            answers[question.type].append(said == question.answer)
        for mask, name, right in _follow_up(agent, painted, rng):
            followed[mask][name].append(right)
        progress("agent", index + 1, scenes)
    return AgentAccuracy(
        scenes=scenes,
        routes=routes,
        unparsed=unparsed,
        answers={name: _count(values) for name, values in sorted(answers.items())},
        follow_ups={
            mask: {name: _count(values) for name, values in sorted(found.items())}
            for mask, found in followed.items()
        },
    )


def _follow_up(
    agent: LensAgent, painted: PaintedScene, rng: np.random.Generator
) -> Iterator[tuple[str, str, bool]]:
    """Ask about a mask; yields which mask, the question and whether the answer was right."""
    instructions = sample_instructions(painted.scene, rng)
    chosen = instructions[int(rng.integers(len(instructions)))]
    known = follow_ups(painted.scene, chosen.things)
    asked = [known[i] for i in rng.permutation(len(known))[:FOLLOW_UPS]]
    predicted = agent.predictor(painted.image, chosen.text)
    true = replace(predicted, mask=painted.mask(*chosen.things))
    for mask, marked in (("true", true), ("predicted", predicted)):
        for question in asked:
            said = agent.follow_up(marked, question.text)
            yield mask, question.text, said == question.answer


def _count(values: list[bool]) -> tuple[int, int]:
    return sum(values), len(values)


def report(found: AgentAccuracy) -> Report:
    """Report the measurement as tables."""
    lines = [f"{found.scenes} scenes; {found.unparsed} requests without a readable route", ""]
    rows = []
    for wordings, by_route in found.routes.items():
        for route, taken in by_route.items():
            total = sum(taken.values())
            rows.append([wordings, route, str(total), *(str(taken[r]) for r in ROUTES)])
            rows[-1].append(_percent(taken[route], total))
    lines += table(["wordings", "true route", "requests", *ROUTES, "right"], rows)
    lines += ["", *_answers("question", found.answers)]
    for mask, counts in found.follow_ups.items():
        lines += ["", *_answers(f"follow-up, {mask} mask", counts)]
    return Report(_document(found), "\n".join(lines))


def _answers(head: str, counts: dict[str, tuple[int, int]]) -> list[str]:
    total = tuple(sum(values) for values in zip(*counts.values(), strict=True)) or (0, 0)
    rows = [[name, str(asked), _percent(right, asked)] for name, (right, asked) in counts.items()]
    return table([head, "asked", "right"], [*rows, ["all", str(total[1]), _percent(*total)]])


def _percent(right: int, asked: int) -> str:
    return f"{100 * right / asked:.1f} %" if asked else ""


def _document(found: AgentAccuracy) -> dict[str, object]:
    return dict(vars(found))
