"""What an agent remembers of a conversation."""

from __future__ import annotations

from collections import deque

from lens_cache.errors import ConfigError
from lens_cache.predictor.segmentation import Segmentation


class Memory:
    """The masks of a conversation; follow-ups are about one of them, by default the last.

    Args:
        capacity: Most masks that are kept; the oldest are forgotten first.
    """

    def __init__(self, capacity: int = 32) -> None:
        self._masks: deque[Segmentation] = deque(maxlen=capacity)
        self._chosen: Segmentation | None = None

    @property
    def masks(self) -> list[Segmentation]:
        """All masks, the oldest first."""
        return list(self._masks)

    @property
    def chosen(self) -> Segmentation | None:
        """The mask that follow-ups are about (``M.last``); None if there is none."""
        return self._chosen

    def add(self, found: Segmentation) -> None:
        """Remember a mask, and choose it."""
        self._masks.append(found)
        self._chosen = found

    def replace_chosen(self, found: Segmentation) -> None:
        """Put a corrected mask in the place of the chosen one."""
        self._masks = deque(
            (found if mask is self._chosen else mask for mask in self._masks),
            maxlen=self._masks.maxlen,
        )
        self._chosen = found

    def choose(self, number: int) -> Segmentation:
        """Choose a mask by its number in ``masks``, from 1.

        Raises:
            ConfigError: If there is no such mask.
        """
        if not 1 <= number <= len(self._masks):
            raise ConfigError(
                f"choosing a mask: expected a number from 1 to {len(self._masks)}, found {number}"
                if self._masks
                else "choosing a mask: there is none yet"
            )
        self._chosen = self._masks[number - 1]
        return self._chosen

    def clear(self) -> None:
        """Forget everything."""
        self._masks.clear()
        self._chosen = None
