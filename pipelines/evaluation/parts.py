"""An evaluation in parts that resume: one file for a few images, one line for each image.

A killed evaluation keeps every complete line. Parts are independent, so several workers can answer
them, and the results are the same bytes whoever answered which part.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lens_cache.evaluation.scores import Sample
from lens_cache.images import masks
from lens_cache.images.masks import Rle
from lens_cache.store.io.files import replacing
from lens_cache.training.sampling import Draw
from pipelines.evaluation.answers import Answers

PARTS = "parts"
KEY_FILE = "key.json"
IMAGES_PER_PART = 16


@dataclass(frozen=True)
class Result:
    """One query with its predicted mask."""

    sample: Sample
    mask: Rle


def open_parts(folder: Path, key: dict[str, Any]) -> bool:
    """Prepare the parts of an evaluation; returns whether those of an earlier one were removed.

    Args:
        folder: Folder of the evaluation.
        key: Everything on which the results depend. Parts with another key are removed.
    """
    parts = folder / PARTS
    path = parts / KEY_FILE
    removed = parts.exists() and not _has_key(path, key)
    if removed:
        shutil.rmtree(parts)
    if not path.exists():
        parts.mkdir(parents=True, exist_ok=True)
        with replacing(path) as file:
            file.write(json.dumps(key, indent=1).encode())
    return removed


def _has_key(path: Path, key: dict[str, Any]) -> bool:
    try:
        return bool(json.loads(path.read_text(encoding="utf-8")) == key)
    except (OSError, ValueError):
        return False


def part_draws(draws: Sequence[Draw]) -> list[Sequence[Draw]]:
    """Cut the images of a split into parts."""
    return [draws[i : i + IMAGES_PER_PART] for i in range(0, len(draws), IMAGES_PER_PART)]


def part_file(folder: Path, number: int) -> Path:
    """Return the file of a part."""
    return folder / PARTS / f"{number:06d}.jsonl"


def num_answered(path: Path) -> int:
    """Return the number of images of a part that are answered."""
    return len(_complete_lines(path))


def answer_part(answers: Answers, draws: Sequence[Draw], path: Path) -> Iterator[int]:
    """Answer the images of a part that are not answered yet; yields the place of each.

    Args:
        answers: Answers the queries.
        draws: The images of the part.
        path: Its file. A half-written last line is removed.
    """
    lines = _complete_lines(path)
    size = sum(len(line) for line in lines)
    with path.open("ab") as file:
        file.truncate(size)
        for place in range(len(lines), len(draws)):
            found = [
                {"sample": asdict(sample), "mask": masks.encode(pair.prediction.cpu().numpy())}
                for sample, pair, _ in answers.of(draws[place])
            ]
            file.write(json.dumps(found, ensure_ascii=False).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
            yield place


def read_results(folder: Path, parts: int) -> list[Result]:
    """Return the results of all parts in the order of the plan."""
    return [
        Result(
            Sample(**entry["sample"]),
            Rle(size=entry["mask"]["size"], counts=entry["mask"]["counts"]),
        )
        for number in range(parts)
        for line in _complete_lines(part_file(folder, number))
        for entry in json.loads(line)
    ]


def remove_parts(folder: Path) -> None:
    """Remove the parts; call it after the results are written elsewhere."""
    shutil.rmtree(folder / PARTS)


def _complete_lines(path: Path) -> list[bytes]:
    if not path.exists():
        return []
    lines = path.read_bytes().splitlines(keepends=True)
    return lines if not lines or lines[-1].endswith(b"\n") else lines[:-1]
