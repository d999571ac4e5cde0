"""The path of an image: read ahead, batched, run through the frozen models, and checked."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass

from torch import Tensor

from lens_cache.config.extract import ExtractConfig
from lens_cache.errors import ImageError, one_line
from lens_cache.extraction.batch_runner import BatchRunner, Flight
from lens_cache.extraction.feature_models import (
    FrozenModel,
    HiddenStates,
    ImageEmbeddings,
    load_llava,
    load_sam,
)
from lens_cache.extraction.image_reader import PictureReader, ReadImage
from lens_cache.extraction.out_of_memory import within_memory
from lens_cache.extraction.stage_times import StageTimes
from lens_cache.extraction.threads import batched, reading_threads
from lens_cache.features.transfer import Transfer, on_gpu
from lens_cache.plan.plan import Plan
from lens_cache.store.layout import Group
from lens_cache.store.quarantine import Quarantine
from lens_cache.store.questions import Questions

# Batches queued on a GPU while the host waits for the oldest: one is computed, one is ready to
# start, and the results of one are being copied.
_IN_FLIGHT = 2
_GPU_BATCH = 4

# Per group the images that killed a worker, by image id.
Crashed = Mapping[Group, Mapping[str, Quarantine]]
Outcome = Mapping[str, Tensor] | Quarantine


@dataclass(frozen=True)
class Done:
    """An image that the models have finished, with its result in each group."""

    image: int
    image_id: str
    outcomes: Mapping[Group, Outcome]


class Engine:
    """The frozen models of some groups, and the threads that read images for them.

    Attributes:
        times: Seconds per stage.
    """

    def __init__(
        self,
        plan: Plan,
        questions: Questions,
        config: ExtractConfig,
        groups: Sequence[Group],
        *,
        side: int,
        device: str,
    ) -> None:
        """Load the models, and run the system prefix, which is the same for all images.

        Args:
            plan: The images.
            questions: The tokens of their questions.
            config: Settings, with paths that are valid on this machine.
            groups: Feature groups; only their models are loaded.
            side: Side of the square frame.
            device: The device of the models.

        Raises:
            ExtractionError: If they do not fit into memory.
        """
        self._plan, self._questions = plan, questions
        self.times = StageTimes()
        self._in_flight = _IN_FLIGHT if on_gpu(device) else 0
        self._batch = config.workers.images_per_batch or (_GPU_BATCH if on_gpu(device) else 1)
        models: dict[Group, FrozenModel] = {}
        self._llava = (
            within_memory(
                f"loading LLaVA onto {device} and running its prompt's prefix",
                lambda: load_llava(config, device),
            )
            if "hidden_states" in groups
            else None
        )
        if self._llava is not None:
            models["hidden_states"] = HiddenStates(self._llava)
        if "image_embeddings" in groups:
            sam = within_memory(f"loading SAM onto {device}", lambda: load_sam(config, device))
            models["image_embeddings"] = ImageEmbeddings(sam)
        assert config.data.root is not None
        self._reader = PictureReader(
            plan,
            config.data.root,
            side=side,
            pixels=self._llava.pixels if self._llava is not None else None,
            threads=config.workers.decode_threads or reading_threads(),
            times=self.times,
        )
        transfer = Transfer(device)
        self._runners = {
            group: BatchRunner(model, transfer, self._reader.blank, self._batch)
            for group, model in models.items()
        }

    @property
    def readers(self) -> int:
        """Number of reading threads."""
        return self._reader.threads

    @property
    def batch_sizes(self) -> dict[Group, int]:
        """Images per batch of each group; lower than configured if memory ran out."""
        return {group: runner.size for group, runner in self._runners.items()}

    def prefix(self) -> dict[int, Tensor]:
        """Return the states of the system prefix per layer, each of shape (P, d)."""
        assert self._llava is not None
        return self._llava.prefix

    def texts(self, image: int) -> list[list[int]]:
        """Return the token ids of each question of an image."""
        return [self._questions.token_ids[q].tolist() for q in self._plan.query_range(image)]

    def run(
        self, images: Sequence[int], groups: Sequence[Group], crashed: Crashed
    ) -> Generator[Done, None, None]:
        """Yield images in order as the models finish them.

        Args:
            images: Indices in the plan; batches start at the first.
            groups: The groups to run.
            crashed: Images that a group must not run.

        Raises:
            DeviceError: If the device failed.
        """
        waiting: deque[tuple[list[ReadImage], dict[Group, list[Flight]]]] = deque()
        untouchable = _in_every_group(crashed)
        with closing(self._reader.read(images, untouchable, 2 * self._batch + 2)) as reads:
            for batch in batched(reads, self._batch):
                waiting.append((batch, self._launch(batch, groups, crashed)))
                if len(waiting) > self._in_flight:
                    yield from self._collect(*waiting.popleft(), crashed)
            while waiting:
                yield from self._collect(*waiting.popleft(), crashed)

    def _launch(
        self, batch: Sequence[ReadImage], groups: Sequence[Group], crashed: Crashed
    ) -> dict[Group, list[Flight]]:
        """Queue a batch of images in each group."""
        texts = [self.texts(read.image) for read in batch]
        return {
            group: self._runners[group].launch(
                [
                    None
                    if isinstance(read.picture, ImageError)
                    or read.planned.image_id in crashed[group]
                    else read.picture
                    for read in batch
                ],
                texts,
            )
            for group in groups
        }

    def _collect(
        self,
        batch: Sequence[ReadImage],
        flights: Mapping[Group, list[Flight]],
        crashed: Crashed,
    ) -> Iterator[Done]:
        """Wait for a batch."""
        found = {}
        for group, queued in flights.items():
            found[group], seconds = self._runners[group].collect(queued)
            self.times.add(self._runners[group].model.stage, seconds)
        for place, read in enumerate(batch):
            outcomes: dict[Group, Outcome] = {}
            for group in flights:
                known = crashed[group].get(read.planned.image_id)
                outcomes[group] = known or _outcome(group, read, found[group].get(place))
            yield Done(read.image, read.planned.image_id, outcomes)


def _in_every_group(crashed: Crashed) -> set[str]:
    """Return the images that killed a worker in every group; they are not even read."""
    first, *others = (set(known) for known in crashed.values())
    return first.intersection(*others)


def _outcome(group: Group, read: ReadImage, found: Mapping[str, Tensor] | str | None) -> Outcome:
    """Return the arrays of an image, or its quarantine record."""
    if isinstance(read.picture, ImageError):
        stage, reason = "read", one_line(read.picture)
    elif isinstance(found, Mapping):
        return found
    else:
        stage, reason = "model", str(found)
    return Quarantine(
        group=group,
        image_id=read.planned.image_id,
        path=str(read.planned.path),
        stage=stage,
        reason=reason,
    )
