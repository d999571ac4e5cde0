"""The paper's tables: published rows, and beside them the rows that were measured here.

Measured rows of a real benchmark stand in its columns. Those of other data, such as the world of
shapes, have a block and columns of their own, so that nobody compares the two by mistake.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lens_cache.datasets.lisa import KINDS
from lens_cache.errors import DatasetError
from lens_cache.evaluation.intervals import Interval, bootstrap
from lens_cache.evaluation.published import PublishedResult, TableName, published
from lens_cache.evaluation.scores import Sample, ratios_of
from lens_cache.toy.questions import WEIGHTS
from pipelines.evaluation.compare import Evaluated

_RESAMPLES = 10_000


@dataclass(frozen=True)
class Column:
    """A column of measured values.

    Attributes:
        name: Its name, that of the published column if there is one.
        split: Split of the queries.
        score: The score, as ``ratios_of`` names it.
        dataset: Only queries of this dataset; of any if empty.
        kind: Only queries of this kind; of any if empty.
        length: Only queries of this length; of any if empty.
    """

    name: str
    split: str
    score: str
    dataset: str = ""
    kind: str = ""
    length: str = ""

    def has(self, sample: Sample) -> bool:
        """Return whether a query belongs to the column."""
        return (
            self.dataset in ("", sample.dataset)
            and self.kind in ("", sample.kind)
            and self.length in ("", sample.length)
        )


def _both(name: str, split: str, **chosen: str) -> list[Column]:
    return [Column(f"{name} {score}", split, score, **chosen) for score in ("gIoU", "cIoU")]


_REASON = {"dataset": "reason_seg"}
_REFER = {"": "refcoco", "+ ": "refcoco+", "g ": "refcocog"}
_NO_TARGET = ("gIoU", "cIoU", "N-acc", "T-acc")
# Columns of the real benchmark, and of its analogue in any other data.
COLUMNS: dict[str, tuple[list[Column], list[Column]]] = {
    "reasonseg": (
        [
            *_both("val", "val", **_REASON),
            *_both("short", "test", **_REASON, length="short"),
            *_both("long", "test", **_REASON, length="long"),
            *_both("test", "test", **_REASON),
        ],
        [
            *_both("val", "val", kind="reasoning"),
            *_both("short", "test", kind="reasoning", length="short"),
            *_both("long", "test", kind="reasoning", length="long"),
            *_both("test", "test", kind="reasoning"),
        ],
    ),
    "refcoco": (
        [
            Column(f"{prefix}{split}", split, "cIoU", dataset)
            for prefix, dataset in _REFER.items()
            for split in (("val", "test") if prefix == "g " else ("val", "testA", "testB"))
        ],
        [
            column
            for split in ("val", "test", "hard")
            for column in _both(split, split, kind="referring")
        ],
    ),
    "grefcoco": (
        [
            Column(f"{split} {score}", split, score, "grefcoco")
            for split in ("val", "testA", "testB")
            for score in _NO_TARGET
        ],
        [Column(f"absent {score}", "absent", score) for score in _NO_TARGET],
    ),
}


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One measured row.

    Attributes:
        method: The method.
        data: The data it was measured on.
        values: By column; a column that was not measured is not there.
    """

    method: str
    data: str
    values: dict[str, Interval | float]


@dataclass(frozen=True, kw_only=True)
class ResultTable:
    """A table.

    Attributes:
        name: Its name.
        published: Rows of other methods, as their sources print them.
        measured: Rows of the real benchmark that were measured here.
        analogue: Rows of other data that were measured here.
    """

    name: TableName
    published: list[PublishedResult]
    measured: list[Measured] = field(default_factory=list)
    analogue: list[Measured] = field(default_factory=list)


def build_table(name: TableName, folders: Sequence[Path]) -> ResultTable:
    """Build a table from the folders of evaluations.

    Args:
        name: The table.
        folders: Of ``lens-cache evaluate`` for the tables of masks, of ``general``, ``routing``,
            ``benchmark cost`` and ``ablations`` for those.

    Raises:
        DatasetError: If a folder is none of these.
    """
    made = ResultTable(name=name, published=published(name))
    if name in COLUMNS:
        real, analogue = COLUMNS[name]
        for folder in folders:
            found = Evaluated.load(folder)
            samples = list(found.samples.values())
            known = any(sample.dataset in (*KINDS, "grefcoco") for sample in samples)
            _add(made.measured if known else made.analogue, found, real if known else analogue)
    elif name == "general":
        for folder in folders:
            _add_general(made, folder)
    elif name == "routing":
        made.analogue.extend(map(_routing, folders))
    elif name == "cost":
        made.analogue.extend(map(_cost, folders))
    else:
        for folder in folders:
            made.analogue.extend(_ablations(folder))
    return made


def _add(rows: list[Measured], found: Evaluated, columns: Sequence[Column]) -> None:
    """Add the values of an evaluation to the row of its method, or a new row."""
    if found.report.get("limit") is not None:
        raise DatasetError(
            f"building a table: {found.folder} evaluated only the first {found.report['limit']} "
            "images of its split; evaluate the whole split"
        )
    method, seen = str(found.report["method"]), found.report.get("trained_on")
    if seen:
        method += f" (trained on {seen} of the images)"
    split = str(found.report["split"]).rpartition("|")[2]
    values: dict[str, Interval | float] = {}
    for column in columns:
        mine = [sample for sample in found.samples.values() if column.has(sample)]
        if column.split != split or not mine:
            continue
        ratios = {name: r for name, r in ratios_of(mine).items() if name == column.score}
        images = [sample.image_id for sample in mine]
        for interval in bootstrap(ratios, images, resamples=_RESAMPLES).values() if ratios else ():
            values[column.name] = interval
    _merge(rows, method, _origin(found.report), values)


def _origin(report: Mapping[str, Any]) -> str:
    return Path(str(report["data"])).name


def _merge(
    rows: list[Measured], method: str, data: str, values: Mapping[str, Interval | float]
) -> None:
    for row in rows:
        if (row.method, row.data) == (method, data):
            if twice := sorted(row.values.keys() & values.keys()):
                raise DatasetError(
                    f"building a table: two evaluations of {method} on {data} have the column "
                    f"{twice[0]}; give one of them"
                )
            row.values.update(values)
            return
    rows.append(Measured(method=method, data=data, values=dict(values)))


def _add_general(made: ResultTable, folder: Path) -> None:
    """Add the rows of a folder of ``lens-cache general``; its files may be of drawn shapes."""
    files = sorted(folder.glob("*/report.json"))
    if not files:
        raise DatasetError(
            f"building the table general: {folder} has no NAME/report.json; run `lens-cache "
            "general FILE... --out` first"
        )
    for file in files:
        report = json.loads(file.read_text(encoding="utf-8"))
        for method, score in report["rows"].items():
            drawn = set(score["categories"]) <= set(WEIGHTS)
            rows = made.analogue if drawn else made.measured
            name = f"{report['benchmark']} of shapes" if drawn else report["benchmark"]
            _merge(rows, method, str(folder), {name: score["score"]})


def _routing(folder: Path) -> Measured:
    try:
        report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
        tiers = report["tiers"]
        values = {
            f"{tier} {name}": Interval(**score[key])
            for tier, score in tiers.items()
            for name, key in (("right", "right"), ("IoU", "end_to_end"))
            if score[key] is not None
        }
    except (OSError, ValueError, KeyError) as error:
        raise DatasetError(
            f"building the table routing: {folder} is no folder of `lens-cache routing` ({error})"
        ) from None
    return Measured(method="LENS agent", data=Path(report["file"]).name, values=dict(values))


def _cost(folder: Path) -> Measured:
    names = {
        "frozen_gb": "frozen GB",
        "training_gb": "training GB per device",
        "extraction_s": "extraction s / 1,000 queries",
        "training_s": "training s / 1,000 queries",
        "store_gb": "store GB / 1,000 queries",
        "first_ms": "first mask ms",
        "further_ms": "further mask ms",
        "calls": "MLLM calls per query",
    }
    try:
        report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
        values = {name: report[key] for key, name in names.items() if report[key] is not None}
        return Measured(method=report["method"], data=report["device"], values=values)
    except (OSError, ValueError, KeyError) as error:
        raise DatasetError(
            f"building the table cost: {folder} has no report of `lens-cache benchmark cost` "
            f"({error})"
        ) from None


def _ablations(folder: Path) -> list[Measured]:
    """Return the rows of ``lens-cache ablations``: mean and standard deviation over seeds."""
    rows = []
    try:
        report = json.loads((folder / "ablations.json").read_text(encoding="utf-8"))
        for row in report["rows"]:
            values: dict[str, Interval | float] = {}
            for split, scores in row["scores"].items():
                for key, name in (("giou", "gIoU"), ("ciou", "cIoU")):
                    values[f"{split} {name}"] = scores[key]["mean"]
                    if scores[key]["deviation"] is not None:
                        values[f"{split} {name} deviation"] = scores[key]["deviation"]
            values["seeds"] = len(row["seeds"])
            rows.append(Measured(method=row["name"], data=folder.name, values=values))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DatasetError(
            f"building the table ablations: {folder} has no report of `lens-cache ablations` "
            f"({error})"
        ) from None
    return rows
