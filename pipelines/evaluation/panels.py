"""Panels of answered queries."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from lens_cache.errors import ImageError
from lens_cache.evaluation.mask_pairs import MaskPair
from lens_cache.evaluation.scores import Sample
from lens_cache.features.types import LensOutput
from lens_cache.images.decode import read_image
from lens_cache.images.files import read_image_file
from lens_cache.images.panels import Panel


def evenly_spaced(total: int, count: int) -> list[int]:
    """Return up to ``count`` of the indices 0 to ``total`` - 1, evenly spaced with both ends."""
    return [int(index) for index in np.linspace(0, total - 1, min(count, total)).round()]


def read_photo(root: Path, path: str) -> NDArray[np.uint8] | None:
    """Return the pixels of an image, RGB (H, W, 3); None if it is missing or cannot be decoded."""
    try:
        return read_image(read_image_file(root, PurePosixPath(path)))
    except (OSError, ImageError):
        return None


def panel_of(
    sample: Sample, pair: MaskPair, answer: LensOutput, photo: NDArray[np.uint8] | None
) -> Panel:
    """Return the panel of one answered query; on grey if its image file is missing."""
    height, width = pair.truth.shape
    grey = np.full((height, width, 3), 200, dtype=np.uint8)
    index = pair.index
    return Panel(
        image=grey if photo is None or photo.shape[:2] != (height, width) else photo,
        title=f'"{sample.instruction}"   IoU {sample.iou:.2f}   {sample.image}',
        grounding_map=answer.grounding_map[index].float().cpu().numpy(),
        keypoints=answer.keypoints[index][answer.keypoint_mask[index]].float().cpu().numpy(),
        prediction=pair.prediction.cpu().numpy(),
        truth=pair.truth.cpu().numpy(),
        coordinates=answer.coordinates,
    )
