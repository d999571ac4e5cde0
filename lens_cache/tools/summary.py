"""A mask in words and numbers, for a model that reads the answer of a tool."""

from __future__ import annotations

from lens_cache.predictor.segmentation import Segmentation


def share(found: Segmentation) -> float:
    """Return the share of the image that a mask covers, from 0 to 1."""
    return float(found.mask.mean())


def summary(found: Segmentation) -> str:
    """Return one line about a mask: score, box and share."""
    height, width = found.mask.shape
    score = f"score {found.score:.2f}{'' if found.calibrated else ' (not calibrated)'}"
    if found.box is None:
        return f'"{found.instruction}": the mask is empty; {score}'
    left, top, box_width, box_height = found.box
    return (
        f'"{found.instruction}": {score}; box x={left} y={top} width={box_width} '
        f"height={box_height}; {100 * share(found):.1f} % of {width} x {height} pixels"
    )
