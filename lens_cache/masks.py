"""Binary masks: COCO run-length encoding in and out, from polygons, PNG files and label maps."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import TypedDict

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pycocotools import mask as coco


class Rle(TypedDict):
    """A compressed COCO run-length encoding; ``size`` is [height, width]."""

    size: list[int]
    counts: str


def encode(mask: NDArray[np.bool_]) -> Rle:
    """Encode a mask of shape (H, W)."""
    return _from_coco(coco.encode(np.asfortranarray(mask, dtype=np.uint8)))


def decode(rle: Rle) -> NDArray[np.bool_]:
    """Decode to a mask of shape (H, W).

    ``rle`` comes from a function of this module; one from elsewhere goes through ``from_counts``.

    Raises:
        ValueError: If the counts describe more pixels than the stated size has.
    """
    return np.asarray(coco.decode(_to_coco(rle)), dtype=np.bool_)


def area(rle: Rle) -> int:
    """Return the number of foreground pixels."""
    return int(coco.area(_to_coco(rle)))


def empty(height: int, width: int) -> Rle:
    """Return the mask with no foreground."""
    return encode(np.zeros((height, width), dtype=np.bool_))


def from_polygons(polygons: Sequence[Sequence[float]], height: int, width: int) -> Rle:
    """Rasterise polygons given as flat [x0, y0, x1, y1, ...] pixel lists; their union.

    Raises:
        ValueError: If a polygon has fewer than three points or an odd number of values.
    """
    for polygon in polygons:
        if len(polygon) < 6 or len(polygon) % 2:
            raise ValueError(
                f"a polygon needs an even number of values, at least 6, got {len(polygon)}"
            )
    return merge(polygon_parts(polygons, height, width)) if polygons else empty(height, width)


def polygon_parts(polygons: Sequence[Sequence[float]], height: int, width: int) -> list[Rle]:
    """Rasterise flat [x0, y0, x1, y1, ...] pixel lists one by one, as pycocotools does.

    Raises:
        ValueError: If pycocotools cannot make sense of them.
    """
    if not polygons:
        return []
    try:
        parts = coco.frPyObjects([list(polygon) for polygon in polygons], height, width)
    except Exception as error:  # it raises bare exceptions
        raise ValueError(f"polygons that cannot be rasterised: {error}") from None
    return [_from_coco(part) for part in parts]


def from_counts(counts: str | Sequence[int], height: int, width: int) -> Rle:
    """Read an RLE given as compressed string or as a list of run lengths.

    The runs are checked here, in Python: pycocotools reads past the end of a malformed string.
    Equal masks give equal strings.

    Raises:
        ValueError: If the runs are malformed or do not add up to height x width pixels.
    """
    runs = _parse_counts(counts) if isinstance(counts, str) else list(counts)
    if any(type(run) is not int or run < 0 for run in runs):
        raise ValueError("run lengths must be integers of at least 0")
    if sum(runs) != height * width:
        raise ValueError(
            f"run lengths add up to {sum(runs)} pixels, the mask has {height} x {width}"
        )
    values = np.arange(len(runs)) % 2 == 1
    return encode(np.repeat(values, runs).reshape(width, height).T)


def _parse_counts(counts: str) -> list[int]:
    """Decompress a COCO counts string: 5 bits a character, every run relative to the last but one.

    The one place that reads such a string without trusting it.
    """
    runs: list[int] = []
    value = shift = 0
    for character in counts:
        bits = ord(character) - 48
        if not 0 <= bits < 64 or shift > 60:
            raise ValueError("the counts are not a compressed COCO run-length encoding")
        value |= (bits & 31) << shift
        shift += 5
        if bits & 32:
            continue
        if bits & 16:
            value -= 1 << shift
        runs.append(value + (runs[-2] if len(runs) > 2 else 0))
        value = shift = 0
    if shift:
        raise ValueError("the counts end in the middle of a run")
    return runs


def merge(rles: Sequence[Rle]) -> Rle:
    """Return the union of masks of one size.

    Raises:
        ValueError: If the sizes differ.
    """
    if any(rle["size"] != rles[0]["size"] for rle in rles):
        raise ValueError("masks of different sizes have no union")
    return _from_coco(coco.merge([_to_coco(rle) for rle in rles]))


def read_png(source: Path | bytes) -> NDArray[np.bool_]:
    """Read a mask file: every non-zero pixel (of any channel but alpha) is foreground."""
    with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as image:
        pixels = np.asarray(
            image if image.mode in ("L", "1", "P", "I", "I;16") else image.convert("RGB")
        )
    foreground = pixels != 0
    return np.asarray(foreground.any(axis=-1) if foreground.ndim == 3 else foreground)


def write_png(path: Path, mask: NDArray[np.bool_]) -> None:
    """Write a mask of shape (H, W) as an 8-bit PNG, 255 for foreground."""
    Image.fromarray(np.where(mask, 255, 0).astype(np.uint8)).save(path)


def _to_coco(rle: Rle) -> dict[str, object]:
    return {"size": rle["size"], "counts": rle["counts"].encode("ascii")}


def _from_coco(rle: dict[str, object]) -> Rle:
    size, counts = rle["size"], rle["counts"]
    assert isinstance(size, list)
    assert isinstance(counts, bytes)
    return Rle(size=[int(v) for v in size], counts=counts.decode("ascii"))
