"""A training run as one page that opens offline: ``RUN/report.html``."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import PIL.Image

from lens_cache.training.loss_tally import LOSSES
from lens_cache.training.run import CONFIG_FILE, Run
from lens_cache.version import __version__
from pipelines.reports.curves import Series, chart, read_log
from pipelines.reports.html import data_uri, template
from pipelines.training.pictures import PICTURES

REPORT_FILE = "report.html"
_TIMES = 6  # validations whose pictures are shown


@dataclass(frozen=True, kw_only=True)
class RunPage:
    """What the page shows.

    Attributes:
        version: Of the package.
        run: The run.
        made: Its ``run.json``.
        settings: Its settings as YAML.
        charts: ``<svg>`` elements by title.
        scores: gIoU and cIoU at the last validation, by what was measured.
        speed: What was logged about it, the mean over all lines.
        pictures: By step the pictures of a few answers, as ``data:`` addresses.
    """

    version: str
    run: Run
    made: dict[str, Any]
    settings: str
    charts: dict[str, str]
    scores: dict[str, dict[str, float]]
    speed: dict[str, float]
    pictures: dict[int, list[str]]


def write_run_report(run: Run) -> Path:
    """Write the page of a run; returns where."""
    log = read_log(run.folder)
    page = RunPage(
        version=__version__,
        run=run,
        made=json.loads((run.folder / "run.json").read_text()),
        settings=(run.folder / CONFIG_FILE).read_text(),
        charts=_charts(log),
        scores=_scores(log),
        speed={
            name.partition("/")[2]: sum(value for _, value in series) / len(series)
            for name, series in log.items()
            if name.startswith("speed/")
        },
        pictures=_pictures(run.folder),
    )
    path = run.folder / REPORT_FILE
    html = template("run.html").render(page=page)
    path.write_text(html, encoding="utf-8")
    return path


def _charts(log: dict[str, Series]) -> dict[str, str]:
    """Draw the curves, by title."""
    titles = {
        "loss": ["train/total"],
        "its parts": [f"train/{loss}" for loss in LOSSES],
        "validation": ["val/giou", "val/ciou"],
        **{f"{loss} by dataset": _several(_below(log, f"train/{loss}/")) for loss in LOSSES},
        "gIoU by dataset": _several([n for n in _below(log, "val/giou/") if "/kind/" not in n]),
        "gIoU by kind": _below(log, "val/giou/kind/"),
        "keypoints of a question": ["train/keypoints"],
        "share of keypoints inside the true mask": ["train/keypoints_inside"],
        "norm of the gradient": ["train/gradient_norm"],
        "learning rate": [name for name in log if name.startswith("lr-")],
        "seconds of a step": ["speed/step_s"],
        "share of time waiting for data": ["speed/waiting"],
    }
    found = {title: chart(log, names) for title, names in titles.items()}
    return {title: svg for title, svg in found.items() if svg is not None}


def _below(log: dict[str, Series], prefix: str) -> list[str]:
    return sorted(name for name in log if name.startswith(prefix))


def _several(names: list[str]) -> list[str]:
    """Return the names of parts, unless one part is the whole."""
    return names if len(names) > 1 else []


def _scores(log: dict[str, Series]) -> dict[str, dict[str, float]]:
    """Return the last gIoU and cIoU of all queries, of each dataset and of each kind."""
    found: dict[str, dict[str, float]] = {}
    for name, series in log.items():
        stage, _, rest = name.partition("/")
        metric, _, group = rest.partition("/")
        if stage == "val" and metric in ("giou", "ciou"):
            label = group.replace("kind/", "kind: ") or "all"
            found.setdefault(label, {})[metric] = series[-1][1]
    return found


def _pictures(folder: Path) -> dict[int, list[str]]:
    """Return the pictures of the first, the last and some validations between."""
    steps = sorted((folder / PICTURES).glob("step_*"))
    if len(steps) > _TIMES:
        places = [round(i * (len(steps) - 1) / (_TIMES - 1)) for i in range(_TIMES)]
        steps = [steps[place] for place in places]
    return {
        int(step.name.removeprefix("step_")): [_embedded(path) for path in sorted(step.glob("*"))]
        for step in steps
    }


def _embedded(path: Path) -> str:
    with PIL.Image.open(path) as picture:
        return data_uri(picture)
