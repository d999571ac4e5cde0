"""Bring a store from one format into the other, byte for byte, without any model."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from lens_cache.config import StoreFormat
from lens_cache.errors import ConfigError, CorruptShardError
from lens_cache.frozen import CONFIG_FILE
from lens_cache.preparation import PLAN_SETTINGS
from lens_cache.store.catalogue import PLAN_FOLDER, Catalogue
from lens_cache.store.commits import (
    SHARED,
    Commit,
    Quarantine,
    commit_path,
    quarantined,
    seal_shared_files,
)
from lens_cache.store.features import FeatureReader
from lens_cache.store.files import (
    has_folder,
    new_folder,
    sweep_temporary,
    write_bytes,
    writer_lock,
)
from lens_cache.store.formats import open_writers, write_array_metadata
from lens_cache.store.layout import GROUPS, QUESTIONS_FILE, Group
from lens_cache.store.manifest import MANIFEST_FILE, Manifest
from lens_cache.store.reader import FROZEN_FOLDER, Store
from pipelines.cost import require_space
from pipelines.destination import require_ours, require_two_folders
from pipelines.extract import RUNS_FOLDER, SPARE_MANIFEST
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


def convert(source: Path, dest: Path, wanted: StoreFormat, reporter: Reporter) -> Conversion:
    """Write a store anew in another format; run it again after any interruption.

    Every part of every image is compared with the checksum that its extraction recorded.

    Args:
        source: A complete store.
        dest: A folder for the new one; it may hold what an interrupted conversion left.
        wanted: Its format.
        reporter: Where progress goes.

    Raises:
        ConfigError: If the folders or the format make no sense.
        StoreError: If ``source`` is not complete, or ``dest`` holds something else.
        CorruptShardError: If ``source`` is damaged.
    """
    store = Store(source)
    require_two_folders(source, dest)
    if store.manifest.format == wanted:
        raise ConfigError(f"converting {source}: it is in the format {wanted} already")
    manifest = store.manifest.in_format(wanted)
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
        format=wanted,
        images=store.plan.num_images,
        queries=store.plan.num_queries,
        shards=store.catalogue.num_shards,
        converted=len(todo),
        size=size,
    )


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
                    writer.add(
                        image_id,
                        {name: self._features.part(name, image).tobytes() for name in checksums},
                    )
                    if writer.checksums[image_id] != checksums:
                        raise CorruptShardError(
                            f"converting {self._source}: {group} of image {image_id} in shard "
                            f"{shard} does not match its checksum; run `lens-cache verify STORE "
                            "--repair`"
                        )
            for writer in writers.values():
                writer.commit()
            return sum(writer.size for writer in writers.values())

    def _is_done(self, group: Group, shard: int) -> bool:
        """Whether a shard was committed with the images that the source has now."""
        if not commit_path(self._dest, group, shard).exists():
            return False
        here = Commit.load(self._dest, group, shard).images
        return here == Commit.load(self._source, group, shard).images


def _complete(dest: Path) -> bool:
    """Whether a conversion has nothing left to do but shards."""
    complete = (dest / MANIFEST_FILE).exists() and Manifest.load(dest).complete
    return complete and commit_path(dest, SHARED, 0).exists()
