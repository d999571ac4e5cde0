"""What a predictor accepts: instructions and clicks."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from lens_cache.errors import ConfigError
from lens_cache.predictor.segmentation import Click

# Most characters of an instruction.
MAX_INSTRUCTION = 4096


def require_instruction(text: str) -> None:
    """Refuse an instruction that is empty or too long.

    Raises:
        ConfigError: If it is.
    """
    if not isinstance(text, str) or not text.strip():
        raise ConfigError('segmenting: the instruction is empty; give one, e.g. "the orange"')
    if len(text) > MAX_INSTRUCTION:
        raise ConfigError(
            f"segmenting: expected an instruction of at most {MAX_INSTRUCTION} characters, found "
            f"{len(text)}; shorten it"
        )


def checked_clicks(
    points: ArrayLike, labels: ArrayLike, *, width: int, height: int
) -> tuple[Click, ...]:
    """Check points and labels.

    Raises:
        ConfigError: If shapes or labels are wrong, or a point is outside the image.
    """
    try:
        found = np.array(points, dtype=np.float64, ndmin=2)
        signs = np.array(labels, dtype=np.float64, ndmin=1)
    except (ValueError, TypeError):
        found, signs = np.zeros((0, 0)), np.zeros(0)
    if found.shape != (len(signs), 2) or not len(signs) or not np.isin(signs, (0, 1)).all():
        raise ConfigError(
            "correcting: expected points (x, y) and for each a label, 1 inside or 0 outside; e.g. "
            "points=[(64, 30)], labels=[1]"
        )
    inside = (found >= 0).all() and (found <= (width, height)).all()
    if not inside:
        raise ConfigError(
            f"correcting: expected points in an image of {width} x {height} pixels, found "
            f"{found.tolist()}"
        )
    return tuple(
        Click(x=float(x), y=float(y), inside=bool(sign))
        for (x, y), sign in zip(found, signs, strict=True)
    )
