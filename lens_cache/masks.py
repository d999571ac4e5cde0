"""Binary masks: COCO run-length encoding in and out, from polygons, PNG files and label maps."""

from __future__ import annotations

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

    Raises:
        ValueError: If the counts do not describe a mask of the stated size.
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
    if not polygons:
        return empty(height, width)
    return merge(
        [_from_coco(r) for r in coco.frPyObjects([list(p) for p in polygons], height, width)]
    )


def from_counts(counts: str | Sequence[int], height: int, width: int) -> Rle:
    """Read an RLE given as compressed string or as a list of run lengths.

    Raises:
        ValueError: If the runs do not add up to height x width pixels.
    """
    if isinstance(counts, str):
        rle = Rle(size=[height, width], counts=counts)
    else:
        if sum(counts) != height * width:
            raise ValueError(
                f"run lengths add up to {sum(counts)} pixels, the mask has {height} x {width}"
            )
        rle = _from_coco(
            coco.frPyObjects({"size": [height, width], "counts": list(counts)}, height, width)
        )
    decode(rle)
    return rle


def merge(rles: Sequence[Rle]) -> Rle:
    """Return the union of masks of one size."""
    return _from_coco(coco.merge([_to_coco(rle) for rle in rles]))


def read_png(path: Path) -> NDArray[np.bool_]:
    """Read a mask file: every non-zero pixel (of any channel but alpha) is foreground."""
    with Image.open(path) as image:
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
