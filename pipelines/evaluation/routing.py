"""The routing benchmark: which requests the agent takes for what, and what its masks are worth."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from lens_cache.agent.agent import LensAgent
from lens_cache.agent.routing import DEFAULT_ROUTE, ROUTES
from lens_cache.benchmarks.requests import RoutedRequest, read_requests
from lens_cache.errors import DatasetError
from lens_cache.evaluation.intervals import Interval, Ratio, bootstrap
from lens_cache.evaluation.metrics import score_masks
from lens_cache.images import masks
from lens_cache.predictor import LensPredictor
from lens_cache.progress import Progress, no_progress
from lens_cache.store.io.files import replacing
from pipelines.evaluation.answer_log import answer_all
from pipelines.reports.markdown import table
from pipelines.reports.report import Report


@dataclass(frozen=True, kw_only=True)
class RouteScores:
    """Scores of a tier, or of all requests, with 95 % bootstrap intervals over images.

    Attributes:
        requests: Number of requests.
        right: Share of the requests that took their route.
        false_calls: Share of the requests for no mask that were taken for one; None if all are.
        missed_calls: Share of the requests for a mask that were not; None if there is none.
        end_to_end: Mean IoU over the requests with a known mask, where a missed call counts 0.
        called: The same IoU if every one of them were taken for what it is.
    """

    requests: int
    right: Interval
    false_calls: Interval | None
    missed_calls: Interval | None
    end_to_end: Interval | None
    called: Interval | None


@dataclass(frozen=True, kw_only=True)
class Routing:
    """The result of the routing benchmark.

    Attributes:
        file: The list of requests.
        tiers: Scores of ``all`` and of each tier.
        routes: By true route, how many took which.
        unclear: Answers that named no route, so that the default was taken.
    """

    file: str
    tiers: dict[str, RouteScores]
    routes: dict[str, dict[str, int]]
    unclear: int


def evaluate_routing(
    predictor: LensPredictor, path: Path, out: Path, *, progress: Progress = no_progress
) -> Routing:
    """Route every request of a list and write ``report.json`` and ``report.md``; it resumes.

    Args:
        predictor: A predictor that can answer (``chat=True``).
        path: The list, see ``lens_cache.benchmarks.requests``; images are relative to its folder.
        out: Output folder.
        progress: Called with the name of the step, requests done and requests in all.

    Raises:
        DatasetError: If the list, or the size of a mask, is not as it should be.
        ImageError: If an image cannot be read.
        ConfigError: If the folder has answers of another model or list.
    """
    requests = read_requests(path)
    key = {
        "head": predictor.head.digest(),
        "model": predictor.head.fingerprints["hidden_states"].get("weights"),
        "requests": hashlib.sha256(path.read_bytes()).hexdigest(),
    }
    agent = LensAgent(predictor)
    answers = answer_all(
        out / "answers.jsonl",
        key,
        requests,
        lambda request: _answer(agent, path.parent / request.image, request),
        progress,
        "routing",
    )
    found = summarise(path, requests, answers)
    for name, text in (
        ("report.json", json.dumps(asdict(found), indent=2)),
        ("report.md", report(found).text),
    ):
        with replacing(out / name) as file:
            file.write(f"{text}\n".encode())
    return found


def _answer(agent: LensAgent, image: Path, request: RoutedRequest) -> dict[str, Any]:
    routed, route = agent.route(request.text, image)
    iou = None
    if request.route == "segmentation" and request.mask is not None:
        mask = torch.from_numpy(agent.predictor(image, request.text).mask)
        target = torch.from_numpy(masks.decode(request.mask))
        if mask.shape != target.shape:
            raise DatasetError(
                f"scoring {request.text!r}: expected a mask of the size of {image}, "
                f"{list(mask.shape)}, found {list(target.shape)}"
            )
        iou = score_masks(mask[None], target[None])[0].iou
    return {"routed": routed, "route": route, "iou": iou}


def summarise(
    path: Path, requests: Sequence[RoutedRequest], answers: Sequence[dict[str, Any]]
) -> Routing:
    """Score answers to requests: the route, None if it was unclear, and the IoU of the mask."""
    pairs = list(zip(requests, answers, strict=True))
    routes: dict[str, dict[str, int]] = {route: dict.fromkeys(ROUTES, 0) for route in ROUTES}
    for request, answer in pairs:
        routes[request.route][answer["route"] or DEFAULT_ROUTE] += 1
    tiers = {"all": pairs}
    for pair in pairs:
        tiers.setdefault(pair[0].tier, []).append(pair)
    return Routing(
        file=str(path),
        tiers={name: _score(mine) for name, mine in tiers.items()},
        routes={route: taken for route, taken in routes.items() if any(taken.values())},
        unclear=sum(answer["route"] is None for answer in answers),
    )


def _score(pairs: Sequence[tuple[RoutedRequest, dict[str, Any]]]) -> RouteScores:
    wanted = [float(request.route == "segmentation") for request, _ in pairs]
    taken = [answer["route"] or DEFAULT_ROUTE for _, answer in pairs]
    called = [float(route == "segmentation") for route in taken]
    unwanted = [1 - one for one in wanted]
    known = [float(answer["iou"] is not None) for _, answer in pairs]
    ious = [answer["iou"] or 0.0 for _, answer in pairs]
    ratios = {
        "right": Ratio(
            [
                float(request.route == route)
                for (request, _), route in zip(pairs, taken, strict=True)
            ]
        )
    }
    if any(unwanted):
        ratios["false"] = Ratio([u * c for u, c in zip(unwanted, called, strict=True)], unwanted)
    if any(wanted):
        ratios["missed"] = Ratio([w * (1 - c) for w, c in zip(wanted, called, strict=True)], wanted)
    if any(known):
        ratios["end"] = Ratio([i * c for i, c in zip(ious, called, strict=True)], known)
        ratios["called"] = Ratio(ious, known)
    values = bootstrap(ratios, [request.image for request, _ in pairs])
    return RouteScores(
        requests=len(pairs),
        right=values["right"],
        false_calls=values.get("false"),
        missed_calls=values.get("missed"),
        end_to_end=values.get("end"),
        called=values.get("called"),
    )


def report(found: Routing) -> Report:
    """Report the benchmark as tables."""
    body = [
        [
            name,
            str(score.requests),
            *(
                "" if value is None else value.percent()
                for value in (
                    score.right,
                    score.false_calls,
                    score.missed_calls,
                    score.end_to_end,
                    score.called,
                )
            ),
        ]
        for name, score in found.tiers.items()
    ]
    taken = [
        [route, *(str(counts[one]) for one in ROUTES)] for route, counts in found.routes.items()
    ]
    lines = [
        f"# Routing of {Path(found.file).name}",
        "",
        *table(
            [
                "tier",
                "requests",
                "right",
                "false calls",
                "missed calls",
                "IoU end to end",
                "IoU if always called",
            ],
            body,
        ),
        "",
        *table(["true route", *ROUTES], taken),
        "",
        f"{found.unclear} answers named no route, so that {DEFAULT_ROUTE} was taken. In percent, "
        "with 95 % bootstrap intervals over images.",
    ]
    return Report(asdict(found), "\n".join(lines))
