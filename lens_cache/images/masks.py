"""Binary masks: COCO run-length encoding in and out, from polygons, PNG files and label maps."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pycocotools import mask as coco

# Characters of a run; seven hold more than the pixels of any image.
_MAX_CHARACTERS = 8


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


def sample(rle: Rle, rows: NDArray[np.int64], columns: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Return the pixels of a mask where some rows and columns cross, shape (rows, columns).

    Costs what the run lengths and the wanted pixels cost, however large the mask is; ``rle`` is as
    for ``decode``.
    """
    ends = _parse_counts(rle["counts"]).cumsum()
    pixels = columns[None, :] * rle["size"][0] + rows[:, None]
    inside: NDArray[np.bool_] = np.searchsorted(ends, pixels, side="right") % 2 == 1
    return inside


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
    runs = _parse_counts(counts).tolist() if isinstance(counts, str) else list(counts)
    if any(type(run) is not int or run < 0 for run in runs):
        raise ValueError("run lengths must be integers of at least 0")
    if sum(runs) != height * width:
        raise ValueError(
            f"run lengths add up to {sum(runs)} pixels, the mask has {height} x {width}"
        )
    merged = [0]
    for place, run in enumerate(runs):
        if run and place % 2 == (len(merged) - 1) % 2:
            merged[-1] += run
        elif run:
            merged.append(run)
    return _from_runs(merged, height, width)


def _parse_counts(counts: str) -> NDArray[np.int64]:
    """Decompress a COCO counts string: 5 bits a character, every run relative to the last but one.

    The one place that reads such a string without trusting it.
    """
    data = np.frombuffer(counts.encode("utf-8", "surrogatepass"), dtype=np.uint8).astype(np.int64)
    bits = data - 48
    if not bits.size:
        return bits
    ends = np.flatnonzero(bits & 32 == 0)
    starts = np.concatenate([[0], ends[:-1] + 1])[: ends.size]
    lengths = ends + 1 - starts
    if bits.min() < 0 or bits.max() >= 64 or lengths.max(initial=0) > _MAX_CHARACTERS:
        raise ValueError("the counts are not a compressed COCO run-length encoding")
    if not ends.size or ends[-1] != bits.size - 1:
        raise ValueError("the counts end in the middle of a run")
    places = np.arange(bits.size) - np.repeat(starts, lengths)
    values = np.add.reduceat((bits & 31) << (5 * places), starts)
    values -= np.where(bits[ends] & 16, 1 << (5 * lengths), 0)
    # Run 0 stands alone; runs 1, 3, 5, ... and 2, 4, 6, ... each count on.
    values[1::2] = values[1::2].cumsum()
    values[2::2] = values[2::2].cumsum()
    return values


def split(
    labels: NDArray[np.integer[Any]], groups: NDArray[np.integer[Any]] | None = None
) -> dict[int, Rle]:
    """Return the mask of every value of a label map of shape (H, W), by ascending value.

    The pixels are looked at once, however many values there are; the rest goes by runs.

    Args:
        labels: The map.
        groups: Shape (N,): what stands for each of the values 0 to N - 1; they are their own, if
            not.
    """
    height, width = labels.shape
    pixels = labels.T.ravel()  # down the columns, as runs go
    starts = _changes(pixels)
    values = pixels[starts]
    if groups is not None:
        values = groups[values]
        kept = _changes(values)
        starts, values = starts[kept], values[kept]
    ends = np.append(starts[1:], pixels.size)
    order = np.argsort(values, kind="stable")
    present, firsts = np.unique(values[order], return_index=True)
    found = {}
    for value, places in zip(present.tolist(), np.split(order, firsts[1:]), strict=True):
        edges = np.column_stack((starts[places], ends[places])).ravel()
        if edges[-1] < pixels.size:
            edges = np.append(edges, pixels.size)
        found[value] = _from_runs(np.diff(edges, prepend=0), height, width)
    return found


def _changes(values: NDArray[np.integer[Any]]) -> NDArray[np.intp]:
    """Return where a value differs from the one before; the first does."""
    return np.append(0, np.flatnonzero(values[1:] != values[:-1]) + 1)


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


def _from_runs(runs: Sequence[int] | NDArray[np.integer[Any]], height: int, width: int) -> Rle:
    """Compress run lengths that are known to be sound: only the first may be 0."""
    return _from_coco(coco.frPyObjects({"size": [height, width], "counts": runs}, height, width))


def _to_coco(rle: Rle) -> dict[str, object]:
    return {"size": rle["size"], "counts": rle["counts"].encode("ascii")}


def _from_coco(rle: dict[str, object]) -> Rle:
    size, counts = rle["size"], rle["counts"]
    assert isinstance(size, list)
    assert isinstance(counts, bytes)
    return Rle(size=[int(v) for v in size], counts=counts.decode("ascii"))
