"""Write a store anew without any model: in the other format, byte for byte, or less precisely."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lens_cache.config.extract import PrecisionConfig
from lens_cache.config.fields import Precision, StoreFormat
from lens_cache.errors import ConfigError, CorruptShardError
from lens_cache.extraction.prepare import PLAN_SETTINGS
from lens_cache.features.frozen_parts import CONFIG_FILE
from lens_cache.store.catalogue import Catalogue
from lens_cache.store.commits import SHARED, Commit, commit_path, seal_shared_files
from lens_cache.store.feature_reader import FeatureReader
from lens_cache.store.formats import open_writers, write_array_metadata
from lens_cache.store.io.files import (
    crc32c,
    has_folder,
    new_folder,
    sweep_temporary,
    write_bytes,
    writer_lock,
)
from lens_cache.store.layout import GROUPS, QUESTIONS_FILE, Group
from lens_cache.store.manifest import Manifest
from lens_cache.store.paths import (
    FROZEN_FOLDER,
    MANIFEST_FILE,
    PLAN_FOLDER,
    RUNS_FOLDER,
    SPARE_MANIFEST,
)
from lens_cache.store.quarantine import Quarantine, quarantined
from lens_cache.store.store import Store
from lens_cache.store.values import to_bytes
from pipelines.extraction.destination import require_ours, require_two_folders
from pipelines.extraction.dry_run import require_space
from pipelines.progress import Reporter

_THREADS = 4
# What is copied as it is, with the file that is written last.
_FOLDERS = {
    PLAN_FOLDER: PLAN_SETTINGS,
    FROZEN_FOLDER: CONFIG_FILE,
    RUNS_FOLDER: MANIFEST_FILE,
}


@dataclass(frozen=True)
class Conversion:
    """What a conversion did.

    Attributes:
        format: The format of the new store.
        images: Images of the plan.
        queries: Queries of the plan.
        shards: Shards of the store.
        converted: Shards written in this run; the others were there.
        size: Feature bytes written in this run.
    """

    format: StoreFormat
    images: int
    queries: int
    shards: int
    converted: int
    size: int


def convert(
    source: Path,
    dest: Path,
    reporter: Reporter,
    *,
    wanted: StoreFormat | None = None,
    hidden_states: Precision | None = None,
    image_embeddings: Precision | None = None,
) -> Conversion:
    """Write a store anew; run it again after any interruption.

    Every part of every image is compared with the checksum that its extraction recorded. The new
    store is the one that an extraction with its settings would have written.

    Args:
        source: A complete store.
        dest: A folder for the new one; it may hold what an interrupted conversion left.
        reporter: Where progress goes.
        wanted: Its format; the same by default.
        hidden_states: Its precision of this group; the same by default.
        image_embeddings: Its precision of this group; the same by default.

    Raises:
        ConfigError: If the folders make no sense, nothing would change, or a precision that is
            lost was asked for.
        StoreError: If ``source`` is not complete, or ``dest`` holds something else.
        CorruptShardError: If ``source`` is damaged.
    """
    store = Store(source)
    require_two_folders(source, dest)
    precision = _precision(store, hidden_states, image_embeddings)
    manifest = store.manifest.in_precision(precision).in_format(wanted or store.manifest.format)
    if manifest.arrays == store.manifest.arrays and manifest.format == store.manifest.format:
        raise ConfigError(
            f"converting {source}: it is in the format {manifest.format} and in this precision "
            "already"
        )
    require_ours(dest, manifest)
    with writer_lock(dest):
        sweep_temporary(dest)
        job = _Job(store, dest, replace(store.catalogue, manifest=manifest))
        todo = job.shards_to_do()
        if todo or not _complete(dest):
            require_space(dest, sum(job.size(shard) for shard in todo))
            replace(manifest, complete=False).save(dest)
            job.copy_shared()
            write_bytes(dest, dest / SPARE_MANIFEST, (dest / MANIFEST_FILE).read_bytes())
        size = _convert_shards(job, todo, reporter)
        if todo or not _complete(dest):
            seal_shared_files(dest)
            manifest.save(dest)
        sweep_temporary(dest)
    return Conversion(
        format=manifest.format,
        images=store.plan.num_images,
        queries=store.plan.num_queries,
        shards=store.catalogue.num_shards,
        converted=len(todo),
        size=size,
    )


def _precision(
    store: Store, hidden_states: Precision | None, image_embeddings: Precision | None
) -> PrecisionConfig:
    """Return the precision of the new store; what a store has lost does not come back."""
    here = store.manifest.precision
    wanted = PrecisionConfig(
        hidden_states=hidden_states or here.hidden_states,
        image_embeddings=image_embeddings or here.image_embeddings,
    )
    for group in GROUPS:
        found, asked = getattr(here, group), getattr(wanted, group)
        if found not in ("model", asked):
            raise ConfigError(
                f"converting {store.root}: {group} is stored as {found}, so it cannot become "
                f"{asked}; extract it anew with --set store.precision.{group}={asked}"
            )
    return wanted


def _convert_shards(job: _Job, todo: list[int], reporter: Reporter) -> int:
    """Convert shards a few at a time; returns the bytes written."""
    size = 0
    reporter.progress("convert", 0, len(todo))
    pool = ThreadPoolExecutor(_THREADS, "convert")
    try:
        for done, written in enumerate(pool.map(job.convert, todo), 1):
            size += written
            reporter.progress("convert", done, len(todo))
    finally:
        pool.shutdown(cancel_futures=True)
    return size


class _Job:
    """One conversion: where from, where to, and what is the same in both."""

    def __init__(self, store: Store, dest: Path, catalogue: Catalogue) -> None:
        self._source, self._dest, self._catalogue = store.root, dest, catalogue
        self._features: FeatureReader = store.features
        arrays = catalogue.manifest.arrays
        self._recoded = {g for g in GROUPS if arrays[g] != store.manifest.arrays[g]}
        self._quarantined: Mapping[Group, Mapping[str, Quarantine]] = {
            group: quarantined(store.root, group) for group in GROUPS
        }

    def shards_to_do(self) -> list[int]:
        """Return the shards of which some group is not there as it is in the source."""
        return [
            shard
            for shard in range(self._catalogue.num_shards)
            if not all(self._is_done(group, shard) for group in GROUPS)
        ]

    def size(self, shard: int) -> int:
        """Return about how many bytes a shard takes."""
        paths = {
            record.path: record.size
            for group in GROUPS
            for record in Commit.load(self._source, group, shard).objects
        }
        return sum(paths.values())

    def copy_shared(self) -> None:
        """Copy what is the same in both formats and is not there yet."""
        for name, last in _FOLDERS.items():
            if not has_folder(self._dest / name, last=last):
                self._copy_folder(name, last)
        write_bytes(
            self._dest, self._dest / QUESTIONS_FILE, (self._source / QUESTIONS_FILE).read_bytes()
        )
        write_array_metadata(self._dest, self._catalogue.manifest)

    def _copy_folder(self, name: str, last: str) -> None:
        here = self._source / name
        with new_folder(self._dest, self._dest / name, last=last) as folder:
            for path in here.rglob("*"):
                if path.is_file():
                    copy = folder / path.relative_to(here)
                    copy.parent.mkdir(parents=True, exist_ok=True)
                    copy.write_bytes(path.read_bytes())

    def convert(self, shard: int) -> int:
        """Write one shard of every group; returns its bytes.

        Raises:
            CorruptShardError: If a part of an image differs from its checksum.
        """
        with open_writers(self._dest, self._catalogue, shard, GROUPS) as writers:
            if shard == 0:
                for group, writer in writers.items():
                    for name in self._catalogue.prefixes(group):
                        writer.add_prefix(name, self._features.prefix(name).tobytes())
            commits = {group: Commit.load(self._source, group, shard) for group in GROUPS}
            for image in self._catalogue.images(shard):
                image_id = self._catalogue.image_id(image)
                for group, writer in writers.items():
                    checksums = commits[group].images[image_id]
                    if not checksums:
                        record = self._quarantined[group][image_id]
                        writer.skip(record, self._catalogue.text_rows(image))
                        continue
                    parts = {name: self._features.part(name, image) for name in checksums}
                    if {name: crc32c(part.tobytes()) for name, part in parts.items()} != checksums:
                        raise CorruptShardError(
                            f"converting {self._source}: {group} of image {image_id} in shard "
                            f"{shard} does not match its checksum; run `lens-cache verify STORE "
                            "--repair`"
                        )
                    writer.add(
                        image_id,
                        {name: self._convert(group, name, part) for name, part in parts.items()},
                    )
            for writer in writers.values():
                writer.commit()
            return sum(writer.size for writer in writers.values())

    def _convert(self, group: Group, name: str, part: NDArray[np.uint8]) -> bytes:
        """Return an image's part of an array as the new store keeps it."""
        spec = self._catalogue.manifest.arrays[group][name]
        if spec.code == self._features.spec(name).code:
            return part.tobytes()
        return to_bytes(self._features.tensor(name, part), spec)

    def _is_done(self, group: Group, shard: int) -> bool:
        """Whether a shard was committed with the images that the source has now."""
        if not commit_path(self._dest, group, shard).exists():
            return False
        here = Commit.load(self._dest, group, shard).images
        there = Commit.load(self._source, group, shard).images
        if group in self._recoded:  # the bytes are others, so their checksums tell nothing
            return {name: parts.keys() for name, parts in here.items()} == {
                name: parts.keys() for name, parts in there.items()
            }
        return here == there


def _complete(dest: Path) -> bool:
    """Whether a conversion has nothing left to do but shards."""
    complete = (dest / MANIFEST_FILE).exists() and Manifest.load(dest).complete
    return complete and commit_path(dest, SHARED, 0).exists()
