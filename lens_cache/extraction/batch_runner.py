"""Run one frozen model over batches of images, so that an image that fails fails alone.

The bits of a feature may depend on the shape of its batch. So the shape depends only on the
plan and the settings: an image that cannot be used is replaced by a blank one, and a batch that
fails is run again once per image, with blanks for the others. Only running out of memory changes
it. An image that fails alone is blamed only if a batch of blanks succeeds; otherwise the device or
the model has failed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lens_cache.errors import one_line
from lens_cache.extraction.device_errors import device_error, device_errors, device_failed
from lens_cache.extraction.feature_models import FrozenModel, Picture, Texts
from lens_cache.extraction.out_of_memory import out_of_memory
from lens_cache.features.transfer import Arrival, Mark, Transfer


@dataclass(frozen=True)
class Flight:
    """A batch that is running on the device, or why it failed.

    Attributes:
        wanted: Positions of the images whose results are used.
        batch: Positions of all its images, including those replaced by blanks.
        texts: The questions of all positions.
        values: Its arrays, on their way to the host.
        finite: Per array which of its rows are finite, on the way to the host.
        began: When the device started.
        ended: When the device finished.
        failure: Why there are no values.
    """

    wanted: Sequence[int]
    batch: Sequence[int] = ()
    texts: Sequence[Texts] = ()
    values: Arrival | None = None
    finite: Arrival | None = None
    began: Mark | None = None
    ended: Mark | None = None
    failure: str = ""


class BatchRunner:
    """Runs one model over batches.

    Attributes:
        model: The model.
        size: Images per batch; halved whenever memory runs out, and never raised again.
    """

    def __init__(self, model: FrozenModel, transfer: Transfer, blank: Picture, size: int) -> None:
        """Take a model.

        Args:
            model: The model.
            transfer: Copies between the host and the model's device.
            blank: Replaces an image that cannot be run.
            size: Images per batch.
        """
        self.model, self.size = model, size
        self._transfer, self._blank = transfer, blank

    def launch(self, pictures: Sequence[Picture | None], texts: Sequence[Texts]) -> list[Flight]:
        """Queue images, in as few batches as the size allows.

        Args:
            pictures: The images; None for one that is skipped but keeps its position.
            texts: Token ids of each question of each image.

        Raises:
            DeviceError: If the device failed, or the model fails without any image.
        """
        flights: list[Flight] = []
        start = 0
        while start < len(pictures):
            batch = range(start, min(start + self.size, len(pictures)))
            wanted = [place for place in batch if pictures[place] is not None]
            queued = self._try(pictures, texts, batch, wanted) if wanted else []
            if queued is not None:
                flights += queued
                start = batch.stop
        return flights

    def collect(
        self, flights: Sequence[Flight]
    ) -> tuple[dict[int, dict[str, Tensor] | str], float]:
        """Wait for batches.

        Returns:
            Per position the arrays of the image, on the host, or why there are none; and the
            seconds that the device took.

        Raises:
            DeviceError: If the device failed.
        """
        with device_errors():  # reported late
            return self._collect(flights)

    def _collect(
        self, flights: Sequence[Flight]
    ) -> tuple[dict[int, dict[str, Tensor] | str], float]:
        outcomes: dict[int, dict[str, Tensor] | str] = {}
        seconds = 0.0
        for flight in flights:
            if flight.values is None or flight.finite is None:
                outcomes |= dict.fromkeys(flight.wanted, flight.failure)
                continue
            images = self.model.split(flight.values.wait(), flight.texts)
            finite = self.model.split(flight.finite.wait(), flight.texts)
            if flight.began is not None and flight.ended is not None:
                seconds += flight.began.seconds_until(flight.ended)
            for place, image, sound in zip(flight.batch, images, finite, strict=True):
                if place in flight.wanted:
                    outcomes[place] = _checked(image, sound)
        return outcomes, seconds

    def _try(
        self,
        pictures: Sequence[Picture | None],
        texts: Sequence[Texts],
        batch: range,
        wanted: Sequence[int],
    ) -> list[Flight] | None:
        """Queue one batch; returns None if memory ran out and it must be smaller."""
        try:
            return [self._queue(pictures, texts, batch, wanted)]
        except RuntimeError as error:
            if out_of_memory(error) and len(batch) > 1:
                self.size = len(batch) // 2
                return None
            if len(wanted) == 1:
                return [self._blamed(texts, batch, wanted[0], error)]
            if device_failed(error):
                raise device_error(error, "the device failed") from None
        return [self._alone(pictures, texts, batch, place) for place in wanted]

    def _alone(
        self,
        pictures: Sequence[Picture | None],
        texts: Sequence[Texts],
        batch: range,
        place: int,
    ) -> Flight:
        """Queue one image of a batch that failed, in a batch of the same shape."""
        try:
            return self._queue(pictures, texts, batch, [place])
        except RuntimeError as error:
            return self._blamed(texts, batch, place, error)

    def _blamed(
        self, texts: Sequence[Texts], batch: range, place: int, error: RuntimeError
    ) -> Flight:
        """Return the failure of an image, after a batch of blanks has succeeded.

        Raises:
            DeviceError: If it has not, or the error is one of the device.
        """
        if device_failed(error):
            raise device_error(error, "the device failed") from None
        short = [[ids[:1] for ids in texts[other]] for other in batch]
        try:
            self.model.run([self._blank] * len(batch), short)
        except RuntimeError as again:
            raise device_error(again, "a batch of blank images fails too") from None
        return Flight([place], failure=_reason(error))

    def _queue(
        self,
        pictures: Sequence[Picture | None],
        texts: Sequence[Texts],
        batch: range,
        wanted: Sequence[int],
    ) -> Flight:
        taken = [(pictures[place] if place in wanted else None) or self._blank for place in batch]
        asked = [texts[place] for place in batch]
        began = self._transfer.mark()
        values = self.model.run(taken, asked)
        finite = {
            name: torch.isfinite(value).flatten(1).all(dim=1) for name, value in values.items()
        }
        ended = self._transfer.mark()
        return Flight(
            wanted=wanted,
            batch=batch,
            texts=asked,
            values=self._transfer.download(values),
            finite=self._transfer.download(finite),
            began=began,
            ended=ended,
        )


def _checked(image: Mapping[str, Tensor], finite: Mapping[str, Tensor]) -> dict[str, Tensor] | str:
    """Return the arrays of an image, or a line that names those with values that are not finite."""
    bad = [name for name in image if not bool(finite[name].all())]
    return f"values that are not finite in {', '.join(bad)}" if bad else dict(image)


def _reason(error: RuntimeError) -> str:
    return f"{type(error).__name__}: {one_line(error)}"
