"""Run the frozen models over the images of a shard and commit what they say.

Nothing here knows where it runs: the Ray job holds one ``ShardExtractor`` per worker process, and
a test or a notebook can hold one without Ray.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lens_cache.config import ExtractConfig
from lens_cache.encoders.checkpoints import resolve_file, resolve_folder
from lens_cache.encoders.llava import LlavaEncoder
from lens_cache.encoders.sam import SamEncoder
from lens_cache.errors import ExtractionError, ImageError, one_line
from lens_cache.geometry import image_to_square
from lens_cache.images import content_id, read_image
from lens_cache.overlap import WriteBehind, read_ahead
from lens_cache.plan import Plan, PlannedImage
from lens_cache.store.catalogue import Catalogue
from lens_cache.store.commits import Quarantine, quarantined
from lens_cache.store.formats import GroupWriter, open_writers
from lens_cache.store.layout import QUESTIONS_FILE, Group, Questions
from lens_cache.store.manifest import Manifest
from lens_cache.store.reader import PLAN_FOLDER, shard_images
from lens_cache.store.writer import to_bytes


@dataclass(frozen=True)
class Picture:
    """A decoded image in the square frame."""

    square: NDArray[np.uint8]
    width: int
    height: int


@dataclass
class ShardReport:
    """What happened to a shard.

    Attributes:
        shard: The shard's number.
        images: Images written to at least one group.
        queries: Their queries.
        quarantined: What failed, per group.
        seconds: Time per stage: read, llava, sam, write; stages overlap.
        wall: Seconds from beginning to commit.
        size: Bytes committed.
    """

    shard: int
    images: int = 0
    queries: int = 0
    quarantined: list[Quarantine] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)
    wall: float = 0.0
    size: int = 0


class ShardExtractor:
    """Extracts shards of one store with the frozen models of some groups.

    Attributes:
        images_done: Images of the current shard that the models are done with.
    """

    def __init__(
        self, root: Path, config: ExtractConfig, groups: Sequence[Group], device: str
    ) -> None:
        """Load plan and models.

        Args:
            root: A prepared store.
            config: Its settings, with paths that hold on this machine.
            groups: Feature groups to extract; only their models are loaded.
            device: Where the models run, e.g. ``cuda`` or ``cpu``.
        """
        self._root, self._config = root, config
        self._manifest = Manifest.load(root)
        self._plan = Plan.load(root / PLAN_FOLDER)
        self._questions = Questions.load(root / QUESTIONS_FILE)
        self._shards = shard_images(self._plan.num_images, config.store.shard_size)
        self._failures: dict[str, int] = {}
        self._seconds: dict[str, float] = {}
        self.images_done = 0
        self._llava = self._load_llava(device) if "hidden_states" in groups else None
        self._sam = self._load_sam(device) if "image_embeddings" in groups else None

    def extract(self, shard: int, groups: Sequence[Group]) -> ShardReport:
        """Extract and commit one shard of the given groups.

        Raises:
            ExtractionError: If too many images failed one after another.
            OSError: If the store cannot be written.
        """
        torch.set_num_threads(self._config.workers.threads_per_worker)
        began, self._seconds, self.images_done = time.perf_counter(), {}, 0
        report = ShardReport(shard=shard)
        crashed = self._crashed(groups)
        with ExitStack() as stack:
            catalogue = Catalogue(self._manifest, self._plan, self._questions)
            writers = stack.enter_context(open_writers(self._root, catalogue, shard, groups))
            if shard == 0 and "hidden_states" in writers:
                self._write_prefix(writers["hidden_states"])
            behind = stack.enter_context(WriteBehind())
            for image, planned, picture in self._pictures(self._shards[shard], crashed):
                for group, writer in writers.items():
                    known = crashed[group].get(planned.image_id)
                    outcome = known or self._encode(group, image, planned, picture)
                    self._count(group, outcome, report)
                    behind.submit(self._write, writer, image, planned.image_id, outcome)
                self.images_done += 1
                report.images += 1
                report.queries += len(self._plan.query_range(image))
            behind.wait()
            for writer in writers.values():
                with self._timed("write"):
                    writer.commit()
                report.size += writer.size
        report.seconds, report.wall = self._seconds, time.perf_counter() - began
        return report

    def probe(self, images: Sequence[int], groups: Sequence[Group]) -> None:
        """Run the models over some images and write nothing: does the process survive them?"""
        crashed = self._crashed(groups)
        for image, planned, picture in self._pictures(images, crashed):
            for group in groups:
                if planned.image_id not in crashed[group]:
                    self._encode(group, image, planned, picture)

    def _crashed(self, groups: Sequence[Group]) -> dict[Group, dict[str, Quarantine]]:
        """Return per group the images that killed a worker; no model may see them again."""
        return {
            group: {
                image_id: record
                for image_id, record in quarantined(self._root, group).items()
                if record.stage == "crash"
            }
            for group in groups
        }

    def _write_prefix(self, writer: GroupWriter) -> None:
        """Write the states of the system prefix; they are the same for every image."""
        assert self._llava is not None
        side = self._manifest.side
        features = self._llava.encode(np.zeros((side, side, 3), np.uint8), [])
        for layer, states in features.prefix.items():
            writer.add_prefix(f"layer_{layer}/prefix", to_bytes(states))

    def _encode(
        self, group: Group, image: int, planned: PlannedImage, picture: Picture | ImageError
    ) -> dict[str, Tensor] | Quarantine:
        """Run a group's model on an image; a failure of the image becomes a quarantine record."""
        stage, reason = "read", ""
        if isinstance(picture, ImageError):
            reason = one_line(picture)
        else:
            stage = "model"
            try:
                values = (
                    self._hidden_states(image, picture)
                    if group == "hidden_states"
                    else self._image_embeddings(picture)
                )
                bad = [name for name, value in values.items() if not torch.isfinite(value).all()]
                if not bad:
                    return values
                reason = f"values that are not finite in {', '.join(bad)}"
            except RuntimeError as error:
                reason = f"{type(error).__name__}: {one_line(error)}"
        return Quarantine(
            group=group,
            image_id=planned.image_id,
            path=str(planned.path),
            stage=stage,
            reason=reason,
        )

    def _hidden_states(self, image: int, picture: Picture) -> dict[str, Tensor]:
        assert self._llava is not None
        texts = [self._questions.token_ids[q].tolist() for q in self._plan.query_range(image)]
        values: dict[str, Tensor] = {}
        with self._timed("llava"):
            features = self._llava.encode(picture.square, texts)
            for layer, states in features.image_tokens.items():
                values[f"layer_{layer}/image_tokens"] = states.cpu()
            for layer, per_text in features.text_tokens.items():
                values[f"layer_{layer}/text_tokens"] = torch.cat(list(per_text)).cpu()
        return values

    def _image_embeddings(self, picture: Picture) -> dict[str, Tensor]:
        assert self._sam is not None
        with self._timed("sam"):
            embedding = self._sam.encode(picture.square, width=picture.width, height=picture.height)
            return {"image_embeddings": embedding.cpu()}

    def _write(
        self,
        writer: GroupWriter,
        image: int,
        image_id: str,
        outcome: Mapping[str, Tensor] | Quarantine,
    ) -> None:
        with self._timed("write"):
            if isinstance(outcome, Quarantine):
                rows = sum(len(self._questions.token_ids[q]) for q in self._plan.query_range(image))
                writer.skip(outcome, rows)
            else:
                writer.add(image_id, {name: to_bytes(value) for name, value in outcome.items()})

    def _count(self, group: Group, outcome: object, report: ShardReport) -> None:
        """Count failures; too many images in a row mean that not the images are to blame.

        Each group has its own count: a broken model must not hide behind one that works.
        """
        if not isinstance(outcome, Quarantine):
            self._failures[group] = 0
            return
        report.quarantined.append(outcome)
        self._failures[group] = self._failures.get(group, 0) + 1
        limit = self._config.workers.max_consecutive_failures
        if self._failures[group] >= limit:
            raise ExtractionError(
                f"stopped after {limit} images failed in a row, the last {outcome.path} "
                f"({outcome.stage}: {outcome.reason}); mend the cause and run the same command "
                "again, or raise workers.max_consecutive_failures"
            )

    def _pictures(
        self, images: Sequence[int], crashed: Mapping[Group, Mapping[str, Quarantine]]
    ) -> Iterator[tuple[int, PlannedImage, Picture | ImageError]]:
        """Yield decoded images in order, while threads decode the next ones.

        An image that killed a worker in every group is not touched: its decoder may have done it.
        """

        def read(image: int) -> tuple[PlannedImage, Picture | ImageError]:
            planned = self._plan.image(image)
            if all(planned.image_id in known for known in crashed.values()):
                return planned, ImageError("killed the process that read it")
            with self._timed("read"):
                return planned, self._read(planned)

        threads = self._config.workers.decode_threads
        for image, (planned, picture) in read_ahead(read, images, threads=threads):
            yield image, planned, picture

    def _read(self, planned: PlannedImage) -> Picture | ImageError:
        root = self._config.data.root
        assert root is not None
        try:
            data = (root / planned.path).read_bytes()
            if content_id(data) != planned.image_id:
                return ImageError("the file has changed since it was planned")
            image = read_image(data)
        except OSError as error:
            return ImageError(f"cannot be read: {error.strerror}")
        except ImageError as error:
            return error
        height, width = image.shape[:2]
        return Picture(image_to_square(image, self._manifest.side), width, height)

    @contextmanager
    def _timed(self, stage: str) -> Iterator[None]:
        began = time.perf_counter()
        try:
            yield
        finally:
            spent = time.perf_counter() - began
            self._seconds[stage] = self._seconds.get(stage, 0.0) + spent

    def _load_llava(self, device: str) -> LlavaEncoder:
        config, root = self._config.encoders.llava, self._config.encoders.root
        return LlavaEncoder.from_checkpoint(
            resolve_folder(config.checkpoint, root, config.revision),
            layers=config.layers,
            dtype=getattr(torch, config.dtype),
            device=device,
        )

    def _load_sam(self, device: str) -> SamEncoder:
        config, root = self._config.encoders.sam, self._config.encoders.root
        return SamEncoder.from_checkpoint(
            resolve_file(config.checkpoint, root, config.revision),
            dtype=getattr(torch, config.dtype),
            device=device,
        )
