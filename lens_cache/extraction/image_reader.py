"""Read images of the plan ahead of the models."""

from __future__ import annotations

from collections.abc import Callable, Collection, Generator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from lens_cache.errors import ImageError
from lens_cache.extraction.feature_models import Picture
from lens_cache.extraction.stage_times import StageTimes
from lens_cache.extraction.threads import read_ahead
from lens_cache.images.decode import content_id, read_image
from lens_cache.images.files import patiently, read_image_file
from lens_cache.images.geometry import image_to_square
from lens_cache.plan.plan import Plan, PlannedImage

# The start of the reason for an image whose file, not whose content, is the cause.
CANNOT_BE_READ = "cannot be read"


@dataclass(frozen=True)
class ReadImage:
    """An image of the plan, read, or why it cannot be used."""

    image: int
    planned: PlannedImage
    picture: Picture | ImageError


class PictureReader:
    """Reads, decodes and resizes images of a plan in threads.

    Attributes:
        threads: Number of threads.
        blank: A black image.
    """

    def __init__(
        self,
        plan: Plan,
        root: Path,
        *,
        side: int,
        pixels: Callable[[NDArray[np.uint8]], Tensor] | None,
        threads: int,
        times: StageTimes,
    ) -> None:
        """Create a reader.

        Args:
            plan: The plan.
            root: The folder that its paths are relative to.
            side: Side of the square frame.
            pixels: ``LlavaEncoder.pixels``; None if no LLaVA runs.
            threads: Number of threads.
            times: Receives the time of the stage ``read``.
        """
        self._plan, self._root, self._side = plan, root, side
        self._pixels, self._times = pixels, times
        self.threads = threads
        self.blank = self._picture(np.zeros((side, side, 3), np.uint8), side, side)

    def read(
        self, images: Sequence[int], untouchable: Collection[str], ahead: int
    ) -> Generator[ReadImage, None, None]:
        """Yield images in order, while threads work on the next ones.

        Args:
            images: Indices in the plan.
            untouchable: Image ids that are not decoded, because that may kill the process.
            ahead: Images that may wait to be used.
        """

        def one(image: int) -> ReadImage:
            planned = self._plan.image(image)
            if planned.image_id in untouchable:
                killed = ImageError("killed the process that read it")
                return ReadImage(image, planned, killed)
            with self._times.timed("read"):
                return ReadImage(image, planned, self._read(planned))

        with closing(read_ahead(one, images, threads=self.threads, ahead=ahead)) as stream:
            for _, found in stream:
                yield found

    def _read(self, planned: PlannedImage) -> Picture | ImageError:
        try:
            data = patiently(partial(read_image_file, self._root, planned.path))
            if content_id(data) != planned.image_id:
                return ImageError("the file has changed since it was planned")
            image = read_image(data)
        except OSError as error:
            return ImageError(f"{CANNOT_BE_READ}: {error.strerror}")
        except ImageError as error:
            return error
        height, width = image.shape[:2]
        return self._picture(image_to_square(image, self._side), width, height)

    def _picture(self, square: NDArray[np.uint8], width: int, height: int) -> Picture:
        pixels = None if self._pixels is None else self._pixels(square)
        return Picture(square=square, pixels=pixels, width=width, height=height)
