"""Read the masks of Hugging Face tables. Raises ValueError with a short reason."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa

from lens_cache.datasets.base import brief, relative_path
from lens_cache.datasets.mask_parsing import (
    check_size,
    mask_from_file,
    mask_from_polygons,
    mask_from_rle,
)
from lens_cache.images import masks
from lens_cache.images.files import stored_bytes
from lens_cache.images.masks import Rle


def mask_from_value(value: pa.Scalar, root: Path, height: int, width: int) -> Rle:
    """Read a mask from a ``pyarrow`` scalar.

    Supported forms:

    * an image file (its bytes, or its path relative to the root); non-zero is foreground;
    * a list of ``height`` lists of ``width`` numbers or booleans;
    * an RLE {"size", "counts"};
    * a polygon [x0, y0, x1, y1, ...] or a list of them, in pixels;
    * a list of files or RLEs, of which the union is used.

    Args:
        value: The scalar.
        root: Folder of the dataset.
        height: Height of the image in pixels, after EXIF orientation.
        width: Width of the image in pixels, after EXIF orientation.

    Raises:
        ValueError: If the value has none of these forms, or another size.
    """
    raster = _raster(value, height, width)
    rle = raster if raster is not None else _part(value.as_py(), root, height, width)
    check_size(rle, height, width)
    return rle


def _raster(value: pa.Scalar, height: int, width: int) -> Rle | None:
    """Read a 2-D list without creating a Python object per pixel; returns None for other forms."""
    if not value.is_valid or not _is_list(value.type) or not _is_list(value.type.value_type):
        return None
    rows = value.values
    widths = set(rows.value_lengths().to_pylist())
    pixels = rows.flatten()
    if len(rows) != height or widths != {width} or pixels.null_count or _is_list(pixels.type):
        if pa.types.is_boolean(pixels.type):  # then it cannot be polygons
            raise ValueError(
                f"expected a 2-D list of {height} rows with {width} values each, got {len(rows)} "
                f"rows with {', '.join(map(str, sorted(map(str, widths))[:3]))}"
            )
        return None
    return masks.encode(pixels.to_numpy(zero_copy_only=False).reshape(height, width) != 0)


def _is_list(kind: pa.DataType) -> bool:
    return bool(
        pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    )


def _part(value: Any, root: Path, height: int, width: int) -> Rle:
    """Read any form except a 2-D list."""
    if isinstance(value, list) and value:
        if isinstance(value[0], dict | bytes | str):
            parts = [_part(part, root, height, width) for part in value]
            for part in parts:
                check_size(part, height, width)
            return masks.merge(parts)
        polygons = value if isinstance(value[0], list) else [value]
        return mask_from_polygons(polygons, height, width)
    if isinstance(value, dict) and "counts" in value:
        counts = value["counts"]
        if isinstance(counts, bytes):
            counts = counts.decode("ascii", errors="replace")
        return mask_from_rle({"size": value.get("size"), "counts": counts})
    data = stored_bytes(value)
    if data is not None:
        return mask_from_file(data)
    path = value.get("path") if isinstance(value, dict) else value
    if isinstance(path, str):
        return mask_from_file(root / relative_path(path))
    raise ValueError(f"expected an image file, a 2-D list, an RLE or polygons, got {brief(value)}")
