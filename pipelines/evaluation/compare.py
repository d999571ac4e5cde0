"""Compare two evaluations of the same queries: paired differences, and where they differ most."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from lens_cache.errors import DatasetError
from lens_cache.evaluation.intervals import Interval, paired_bootstrap
from lens_cache.evaluation.predictions import Prediction, read_predictions
from lens_cache.evaluation.scores import Sample, ratios_of
from lens_cache.images import masks
from lens_cache.images.geometry import resized_size
from lens_cache.images.overlay import BLUE, Colour, tint
from lens_cache.progress import Progress, no_progress
from lens_cache.store.io.files import replacing
from pipelines.evaluation.panels import read_photo
from pipelines.reports.html import template
from pipelines.reports.markdown import table
from pipelines.reports.report import Report

GREEN: Colour = (60, 200, 90)
ORANGE: Colour = (255, 140, 0)
# Longest side of a picture on the page, in pixels.
_SIDE = 260
# A query is a win of a method if its IoU is larger by more than this.
TIE = 0.01


@dataclass(frozen=True, kw_only=True)
class Difference:
    """Scores of a group of queries, and the difference second - first with 95 % intervals.

    Attributes:
        queries: Number of queries.
        first: Scores of the first method by name.
        second: Scores of the second method.
        difference: Paired differences, see ``paired_bootstrap``.
        wins: Queries on which the second method has the larger IoU, by more than ``TIE``.
        losses: Queries on which the first method has it.
    """

    queries: int
    first: dict[str, float]
    second: dict[str, float]
    difference: dict[str, Interval]
    wins: int
    losses: int


@dataclass(frozen=True, kw_only=True)
class Shown:
    """A query on the page, with the pictures of target and both masks."""

    instruction: str
    image: str
    ious: tuple[float, float]
    pictures: dict[str, Image.Image]


@dataclass(frozen=True)
class Evaluated:
    """What a folder of an evaluation holds, by query id."""

    folder: Path
    report: Mapping[str, Any]
    samples: Mapping[str, Sample]
    masks: Mapping[str, Prediction]

    @classmethod
    def load(cls, folder: Path) -> Evaluated:
        """Read the folder of an evaluation.

        Raises:
            DatasetError: If it is none.
        """
        known = {field.name for field in fields(Sample)}
        try:
            report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
            lines = (folder / "samples.jsonl").read_text(encoding="utf-8").splitlines()
            entries = [json.loads(line) for line in lines]
            samples = [Sample(**{k: v for k, v in one.items() if k in known}) for one in entries]
        except (OSError, ValueError, TypeError, AttributeError) as error:
            raise DatasetError(
                f"reading {folder}: expected the folder of an evaluation of this version "
                f"({error}); run `lens-cache evaluate` again"
            ) from None
        return cls(
            folder=folder,
            report=report,
            samples={sample.query_id: sample for sample in samples},
            masks=read_predictions(folder / "predictions.jsonl"),
        )


def compare(
    first: Path,
    second: Path,
    out: Path,
    *,
    data_root: Path,
    shown: int = 12,
    progress: Progress = no_progress,
) -> Report:
    """Compare two evaluations and write ``report.json``, ``report.md`` and ``index.html``.

    Args:
        first: Folder of an evaluation.
        second: Folder of another one, of the same queries.
        out: Output folder.
        data_root: Folder of the image files.
        shown: Number of queries on the page, those with the largest differences in IoU.
        progress: Called with the name of the step, groups done and groups in all.

    Raises:
        DatasetError: If a folder is no evaluation, or the queries differ.
    """
    one, other = Evaluated.load(first), Evaluated.load(second)
    _require_same_queries(one, other)
    pairs = [(sample, other.samples[name]) for name, sample in one.samples.items()]
    groups = _groups(pairs)
    found = {}
    for done, (name, group) in enumerate(groups.items(), 1):
        found[name] = _difference(group)
        progress("compare", done, len(groups))
    pictures = _pictures(one, other, pairs, data_root, shown)
    names = [str(one.report["method"]), str(other.report["method"])]
    text = _markdown(names, found)
    document = {
        "first": names[0],
        "second": names[1],
        "split": one.report["split"],
        "groups": {name: asdict(group) for name, group in found.items()},
        "page": str(out / "index.html"),
    }
    page = template("compare.html").render(names=names, groups=found, shown=pictures)
    out.mkdir(parents=True, exist_ok=True)
    for file, content in (
        ("index.html", page),
        ("report.md", text),
        ("report.json", json.dumps(document, indent=2) + "\n"),
    ):
        with replacing(out / file) as stream:
            stream.write(content.encode())
    return Report(document, f"{text}\npage: {out / 'index.html'}")


def _require_same_queries(one: Evaluated, other: Evaluated) -> None:
    extra = set(one.samples) ^ set(other.samples)
    if extra:
        raise DatasetError(
            f"comparing {one.folder} and {other.folder}: expected the same queries, found "
            f"{len(extra)} that only one of them has (such as {min(extra)}); evaluate both on one "
            "split"
        )


def _groups(
    pairs: Sequence[tuple[Sample, Sample]],
) -> dict[str, list[tuple[Sample, Sample]]]:
    """Return all pairs, then those of each kind and length."""
    groups = {"all": list(pairs)}
    for pair in sorted(pairs, key=lambda pair: (pair[0].kind, pair[0].length)):
        groups.setdefault(f"{pair[0].kind}, {pair[0].length}", []).append(pair)
    return groups


def _difference(pairs: Sequence[tuple[Sample, Sample]]) -> Difference:
    first, second = (ratios_of([pair[i] for pair in pairs]) for i in (0, 1))
    change = np.array([b.iou - a.iou for a, b in pairs])
    return Difference(
        queries=len(pairs),
        first={name: ratio.value for name, ratio in first.items()},
        second={name: ratio.value for name, ratio in second.items()},
        difference=paired_bootstrap(first, second, [a.image_id for a, _ in pairs]),
        wins=int((change > TIE).sum()),
        losses=int((change < -TIE).sum()),
    )


def _pictures(
    one: Evaluated,
    other: Evaluated,
    pairs: Sequence[tuple[Sample, Sample]],
    root: Path,
    count: int,
) -> list[Shown]:
    """Draw the queries with the largest differences."""
    targets = {
        line["query_id"]: masks.decode(line["mask"])
        for line in map(json.loads, (one.folder / "targets.jsonl").read_text().splitlines())
    }
    ordered = sorted(pairs, key=lambda pair: (-abs(pair[1].iou - pair[0].iou), pair[0].query_id))
    found = []
    for first, second in ordered[:count]:
        target = targets[first.query_id]
        photo = read_photo(root, first.image)
        if photo is None or photo.shape[:2] != target.shape:
            photo = np.full((*target.shape, 3), 200, dtype=np.uint8)
        drawn = {
            "target": _draw(photo, target, GREEN),
            "first": _draw(photo, _mask(one, first.query_id, target), ORANGE),
            "second": _draw(photo, _mask(other, first.query_id, target), BLUE),
        }
        ious = (first.iou, second.iou)
        found.append(
            Shown(instruction=first.instruction, image=first.image, ious=ious, pictures=drawn)
        )
    return found


def _mask(found: Evaluated, query_id: str, like: NDArray[np.bool_]) -> NDArray[np.bool_]:
    rle = found.masks[query_id].mask
    return np.zeros_like(like) if rle is None else masks.decode(rle)


def _draw(photo: NDArray[np.uint8], mask: NDArray[np.bool_], colour: Colour) -> Image.Image:
    height, width = mask.shape
    image = Image.fromarray(tint(photo, mask, colour))
    return image.resize(resized_size(width, height, _SIDE), Image.Resampling.LANCZOS)


def _markdown(names: Sequence[str], groups: Mapping[str, Difference]) -> str:
    """Return the tables: all scores of all queries, then gIoU by kind."""
    everything = groups["all"]
    rows = [
        [
            name,
            f"{100 * everything.first[name]:.1f}",
            f"{100 * everything.second[name]:.1f}",
            _signed(difference),
        ]
        for name, difference in everything.difference.items()
    ]
    kinds = [
        [
            name,
            str(one.queries),
            f"{100 * one.first['gIoU']:.1f}",
            f"{100 * one.second['gIoU']:.1f}",
            _signed(one.difference["gIoU"]),
            str(one.wins),
            str(one.losses),
        ]
        for name, one in groups.items()
    ]
    lines = [
        f"first: {names[0]}",
        f"second: {names[1]}",
        "",
        *table(["score", "first", "second", "second - first"], rows),
        "",
        *table(
            ["gIoU of", "queries", "first", "second", "second - first", "second better", "worse"],
            kinds,
        ),
        "",
        f"Intervals: 95 % paired bootstrap over images. Better and worse: by more than {TIE} IoU.",
    ]
    return "\n".join(lines) + "\n"


def _signed(value: Interval) -> str:
    return f"{100 * value.value:+.1f} ({100 * value.low:+.1f} to {100 * value.high:+.1f})"
