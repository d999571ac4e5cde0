"""Binary masks as COCO run-length encodings (RLE), from polygons, PNG files and label maps.

Messages of ``ValueError`` are part of a plan's digest, as those of ``decode`` are.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pycocotools import mask as coco

# Most characters of a run; seven are enough for the pixels of any image.
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

    Args:
        rle: From a function of this module. An RLE from elsewhere must go through ``from_counts``,
            because pycocotools trusts its input.

    Raises:
        ValueError: If the counts describe more pixels than the stated size has.
    """
    return np.asarray(coco.decode(_to_coco(rle)), dtype=np.bool_)


def sample(rle: Rle, rows: NDArray[np.int64], columns: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Return the pixels of a mask at the crossings of rows and columns, bool, shape (R, C).

    Does not decode the mask: the cost depends only on the numbers of runs and sampled pixels.

    Args:
        rle: As for ``decode``.
        rows: Indices of rows, shape (R,).
        columns: Indices of columns, shape (C,).
    """
    height = rle["size"][0]
    ends = _parse_counts(rle["counts"]).cumsum()
    pixels = columns[None, :] * height + rows[:, None]  # runs go down the columns
    run = np.searchsorted(ends, pixels, side="right")
    inside: NDArray[np.bool_] = run % 2 == 1  # runs alternate, beginning with background
    return inside


def area(rle: Rle) -> int:
    """Return the number of foreground pixels."""
    return int(coco.area(_to_coco(rle)))


def empty(height: int, width: int) -> Rle:
    """Return a mask without foreground."""
    return encode(np.zeros((height, width), dtype=np.bool_))


def from_polygons(polygons: Sequence[Sequence[float]], height: int, width: int) -> Rle:
    """Return the union of polygons, each rasterised as pycocotools does.

    Args:
        polygons: Flat lists [x0, y0, x1, y1, ...], in pixels of the image.
        height: Height of the image in pixels.
        width: Width of the image in pixels.

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
    """Rasterise polygons one by one, as pycocotools does; arguments as for ``from_polygons``.

    Raises:
        ValueError: If pycocotools rejects them.
    """
    if not polygons:
        return []
    try:
        parts = coco.frPyObjects([list(polygon) for polygon in polygons], height, width)
    except Exception as error:  # pycocotools raises bare exceptions
        raise ValueError(f"polygons that cannot be rasterised: {error}") from None
    return [_from_coco(part) for part in parts]


def from_counts(counts: str | Sequence[int], height: int, width: int) -> Rle:
    """Read an RLE given as compressed string or as a list of run lengths.

    The runs are checked in Python, because pycocotools reads beyond the end of a malformed string.
    Equal masks give equal strings.

    Args:
        counts: COCO's ``counts``.
        height: Height of the mask in pixels.
        width: Width of the mask in pixels.

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
    # Empty runs are removed, which joins their neighbours; only run 0 may be empty.
    merged = [0]
    for index, run in enumerate(runs):
        if run == 0:
            continue
        last = len(merged) - 1
        if index % 2 == last % 2:
            merged[last] += run
        else:
            merged.append(run)
    return _from_runs(merged, height, width)


def _parse_counts(counts: str) -> NDArray[np.int64]:
    """Decompress a COCO counts string without trusting it.

    A character has 5 bits of a run; bit 5 is set if another one follows, and bit 4 of the last one
    is the sign. From run 3 on, a run is stored as its difference to the run two before it.
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
    digits = np.arange(bits.size) - np.repeat(starts, lengths)
    values = np.add.reduceat((bits & 31) << (5 * digits), starts)
    values -= np.where(bits[ends] & 16, 1 << (5 * lengths), 0)
    # Undo the differences: runs 1, 3, 5, ... and runs 2, 4, 6, ...; run 0 has none.
    values[1::2] = values[1::2].cumsum()
    values[2::2] = values[2::2].cumsum()
    return values


def split(
    labels: NDArray[np.integer[Any]], groups: NDArray[np.integer[Any]] | None = None
) -> dict[int, Rle]:
    """Return the mask of every value of a label map, by ascending value.

    Reads the pixels once, however many values there are; the rest works on runs.

    Args:
        labels: Label map, integers, shape (H, W).
        groups: Shape (N,): the value that replaces each of the labels 0 to N - 1; labels are
            unchanged if not given.
    """
    height, width = labels.shape
    pixels = labels.T.ravel()  # down the columns, as in COCO's runs

    # Runs of equal values: where each starts and ends.
    starts = _changes(pixels)
    values = pixels[starts]
    if groups is not None:
        values = groups[values]
        kept = _changes(values)
        starts, values = starts[kept], values[kept]
    ends = np.append(starts[1:], pixels.size)

    # The runs of each value become the foreground of its mask.
    order = np.argsort(values, kind="stable")
    present, firsts = np.unique(values[order], return_index=True)
    masks = {}
    for value, runs in zip(present.tolist(), np.split(order, firsts[1:]), strict=True):
        edges = np.column_stack((starts[runs], ends[runs])).ravel()
        if edges[-1] < pixels.size:
            edges = np.append(edges, pixels.size)
        masks[value] = _from_runs(np.diff(edges, prepend=0), height, width)
    return masks


def _changes(values: NDArray[np.integer[Any]]) -> NDArray[np.intp]:
    """Return the indices of values that differ from the one before; 0 is always among them."""
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
    """Read a mask file; a pixel is foreground if any channel except alpha is not zero."""
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
    """Compress run lengths that are known to be valid; only the first may be 0."""
    return _from_coco(coco.frPyObjects({"size": [height, width], "counts": runs}, height, width))


def _to_coco(rle: Rle) -> dict[str, object]:
    return {"size": rle["size"], "counts": rle["counts"].encode("ascii")}


def _from_coco(rle: dict[str, object]) -> Rle:
    size, counts = rle["size"], rle["counts"]
    assert isinstance(size, list)
    assert isinstance(counts, bytes)
    return Rle(size=[int(v) for v in size], counts=counts.decode("ascii"))
