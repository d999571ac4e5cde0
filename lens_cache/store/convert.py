"""Write a store again without any model: in the other format without loss, or less precisely."""

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
from lens_cache.features.frozen_parts import CONFIG_FILE
from lens_cache.progress import Progress, no_progress
from lens_cache.store.catalogue import Catalogue
from lens_cache.store.commits import Commit, commit_path
from lens_cache.store.destination import require_ours, require_two_folders
from lens_cache.store.folder import StoreFolder
from lens_cache.store.formats import GroupWriter, open_features, open_writers, prefix_object
from lens_cache.store.io.files import crc32c, has_folder, new_folder
from lens_cache.store.layout import GROUPS, Group
from lens_cache.store.paths import (
    FROZEN_FOLDER,
    MANIFEST_FILE,
    PLAN_FOLDER,
    PLAN_SETTINGS,
    RUNS_FOLDER,
)
from lens_cache.store.quarantine import Quarantine, quarantined
from lens_cache.store.shared import SharedFiles
from lens_cache.store.space import require_space
from lens_cache.store.store import Store
from lens_cache.store.values import to_bytes

_THREADS = 4
# The shared folders that are copied unchanged, with the file that is written last.
_FOLDERS = {PLAN_FOLDER: PLAN_SETTINGS, FROZEN_FOLDER: CONFIG_FILE}


@dataclass(frozen=True)
class Conversion:
    """The result of a conversion.

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
    source: str | Path,
    dest: str | Path,
    *,
    wanted: StoreFormat | None = None,
    hidden_states: Precision | None = None,
    image_embeddings: Precision | None = None,
    progress: Progress = no_progress,
) -> Conversion:
    """Write a store again; after any interruption, the same call resumes.

    Every part of every image is compared with the checksum that its extraction recorded. The new
    store has the same bytes as an extraction with its settings.

    Args:
        source: A complete store.
        dest: The folder or URL of the new store; it may have what an interrupted conversion left.
        wanted: Its format; the same by default.
        hidden_states: Its precision of this group; the same by default.
        image_embeddings: Its precision of this group; the same by default.
        progress: Called with the step's name, shards done and in all.

    Raises:
        ConfigError: If one folder is inside the other, nothing would change, or the requested
            precision has been lost.
        StoreError: If ``source`` is not complete, or ``dest`` has other files in it.
        CorruptShardError: If ``source`` is damaged.
    """
    store, folder = Store(source), StoreFolder(dest)
    require_two_folders(store.root, folder.root)
    precision = _precision(store, hidden_states, image_embeddings)
    manifest = store.manifest.in_precision(precision).in_format(wanted or store.manifest.format)
    if manifest.arrays == store.manifest.arrays and manifest.format == store.manifest.format:
        raise ConfigError(
            f"converting {store.root}: it is in the format {manifest.format} and in this precision "
            "already"
        )
    require_ours(folder.root, manifest)
    with folder.writing():
        catalogue = replace(store.catalogue, manifest=replace(manifest, complete=False))
        converter = _Converter(store, folder.root, catalogue)
        todo = converter.todo()
        written = folder.manifest()
        finished = (
            not todo and written is not None and written.complete and not folder.shared.complaints()
        )
        if not finished:
            require_space(folder.root, sum(converter.size(shard) for shard in todo))
            catalogue.manifest.save(folder.root)
            converter.copy_folders(folder)
            folder.describe(catalogue)
            folder.save_spare_manifest()
        size = _convert_shards(converter, todo, progress)
        if not finished:
            folder.seal(manifest)
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
    """Return the precision of the new store; a lost precision cannot be restored."""
    here = store.manifest.precision
    wanted = PrecisionConfig(
        hidden_states=hidden_states or here.hidden_states,
        image_embeddings=image_embeddings or here.image_embeddings,
    )
    for group in GROUPS:
        found, requested = getattr(here, group), getattr(wanted, group)
        if found not in ("model", requested):
            raise ConfigError(
                f"converting {store.root}: {group} is stored as {found}, so it cannot become "
                f"{requested}; extract it again with --set store.precision.{group}={requested}"
            )
    return wanted


def _convert_shards(converter: _Converter, todo: list[int], progress: Progress) -> int:
    """Convert shards, a few at a time; returns the bytes written."""
    size = 0
    progress("convert", 0, len(todo))
    pool = ThreadPoolExecutor(_THREADS, "convert")
    try:
        for done, written in enumerate(pool.map(converter.convert, todo), 1):
            size += written
            progress("convert", done, len(todo))
    finally:
        pool.shutdown(cancel_futures=True)
    return size


class _Converter:
    """Converts the shards of one store into another one, given by its catalogue."""

    def __init__(self, store: Store, dest: Path, catalogue: Catalogue) -> None:
        self._source, self._dest, self._catalogue = store.root, dest, catalogue
        self._shared = SharedFiles.load(store.root)
        self._features = open_features(store.root, store.catalogue, fetch=True)
        arrays = catalogue.manifest.arrays
        self._recoded = {g for g in GROUPS if arrays[g] != store.manifest.arrays[g]}
        self._quarantined: Mapping[Group, Mapping[str, Quarantine]] = {
            group: quarantined(store.root, group) for group in GROUPS
        }

    def todo(self) -> list[int]:
        """Return the shards of which some group is not yet as it is in the source."""
        return [
            shard
            for shard in range(self._catalogue.num_shards)
            if not all(self._is_done(group, shard) for group in GROUPS)
        ]

    def size(self, shard: int) -> int:
        """Return about how many bytes a shard takes."""
        objects = [record for group in GROUPS for record in self._commit(group, shard).objects]
        return sum({record.path: record.size for record in objects}.values())

    def copy_folders(self, dest: StoreFolder) -> None:
        """Copy the folders that are the same in both formats and are not there yet.

        Raises:
            CorruptShardError: If a shared file of the source is not as it was recorded.
        """
        for name, last in _FOLDERS.items():
            dest.shared.copy(self._shared, name, last=last)
        here, there = self._source / RUNS_FOLDER, self._dest / RUNS_FOLDER
        if has_folder(there, last=MANIFEST_FILE):
            return
        with new_folder(self._dest, there, last=MANIFEST_FILE) as folder:
            for path in here.rglob("*"):
                if path.is_file():
                    copy = folder / path.relative_to(here)
                    copy.parent.mkdir(parents=True, exist_ok=True)
                    copy.write_bytes(path.read_bytes())

    def convert(self, shard: int) -> int:
        """Write one shard of every group; returns its bytes.

        Raises:
            CorruptShardError: If a prefix or a part of an image differs from its checksum.
        """
        manifest = self._features.catalogue.manifest
        commits = {group: self._commit(group, shard) for group in GROUPS}
        with open_writers(self._dest, self._catalogue, shard, GROUPS) as writers:
            if shard == 0:
                for group, writer in writers.items():
                    for name in self._catalogue.prefixes(group):
                        path = prefix_object(manifest, name)
                        commits[group].require(self._source, path)
                        writer.add_prefix(name, self._features.prefix(name).tobytes())
            for image in self._catalogue.images(shard):
                for group, writer in writers.items():
                    self._convert_image(group, image, commits[group], writer)
            for group, writer in writers.items():
                writer.commit(commits[group].computed)
            return sum(writer.size for writer in writers.values())

    def _convert_image(self, group: Group, image: int, commit: Commit, writer: GroupWriter) -> None:
        """Give a writer the group's part of an image, or its quarantine record."""
        image_id = self._catalogue.image_id(image)
        checksums = commit.images[image_id]
        if not checksums:
            writer.skip(self._quarantined[group][image_id], self._catalogue.text_rows(image))
            return
        parts = {name: self._features.part(name, image) for name in checksums}
        if {name: crc32c(part.tobytes()) for name, part in parts.items()} != checksums:
            raise CorruptShardError(
                f"converting {self._source}: {group} of image {image_id} in shard {commit.shard} "
                "does not match its checksum; run `lens-cache verify STORE --repair`"
            )
        writer.add(image_id, {name: self._recode(name, part) for name, part in parts.items()})

    def _commit(self, group: Group, shard: int) -> Commit:
        """Return a commit of the source; raises CorruptShardError if it is of something else."""
        content = self._features.catalogue.manifest.content_digest(group)
        return Commit.load(self._source, group, shard, content)

    def _recode(self, name: str, part: NDArray[np.uint8]) -> bytes:
        """Return an image's part of an array in the new store's precision."""
        spec = self._catalogue.manifest.specs[name]
        if spec.code == self._features.spec(name).code:
            return part.tobytes()
        return to_bytes(self._features.tensor(name, part), spec)

    def _is_done(self, group: Group, shard: int) -> bool:
        """Return whether a shard was committed with the images that the source has now."""
        if not commit_path(self._dest, group, shard).exists():
            return False
        here = Commit.load(self._dest, group, shard).images
        there = self._commit(group, shard).images
        if group in self._recoded:  # other bytes, so the checksums cannot be compared
            return {name: parts.keys() for name, parts in here.items()} == {
                name: parts.keys() for name, parts in there.items()
            }
        return here == there
