"""The two formats of a store, and the one place that chooses between them.

``zarr``: arrays with random access, read by any Zarr client. ``webdataset``: a tar per shard with
one sample per image, to be streamed. Plan, questions, frozen parts, commits and quarantine are the
same in both.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Protocol

from lens_cache.store.catalogue import Catalogue
from lens_cache.store.feature_reader import FeatureReader
from lens_cache.store.layout import ArraySpec, Group, is_prefix
from lens_cache.store.manifest import Manifest
from lens_cache.store.quarantine import Quarantine
from lens_cache.store.webdataset.reader import SampleReader
from lens_cache.store.webdataset.samples import prefix_path, tar_path
from lens_cache.store.webdataset.writer import SampleShardWriter
from lens_cache.store.zarr.metadata import metadata
from lens_cache.store.zarr.reader import ZarrReader
from lens_cache.store.zarr.writer import GroupShardWriter


class GroupWriter(Protocol):
    """Writes one group's part of a shard; see ``GroupShardWriter``."""

    @property
    def size(self) -> int:
        """Bytes written so far."""

    @property
    def checksums(self) -> Mapping[str, Mapping[str, int]]:
        """Per image written so far the CRC-32C of its part of each array."""

    def add_prefix(self, name: str, data: bytes) -> None:
        """Write a whole array that a store has once."""

    def add(self, image_id: str, values: Mapping[str, bytes]) -> None:
        """Write the next image's part of every array."""

    def skip(self, quarantine: Quarantine, text_rows: int) -> None:
        """Skip the next image; it is quarantined."""

    def commit(self, computed: Mapping[str, str]) -> None:
        """Commit, after every image was written or skipped; ``computed`` as in ``Commit``."""


def open_features(root: Path, catalogue: Catalogue, *, fetch: bool = False) -> FeatureReader:
    """Return a reader of the features of a store.

    Args:
        root: The store.
        catalogue: Its tables.
        fetch: Whether to copy tars behind a URL to local temporary files; without it they cannot
            be read at random.
    """
    if catalogue.manifest.format == "webdataset":
        return SampleReader(root, catalogue, fetch=fetch)
    return ZarrReader(root, catalogue)


@contextmanager
def open_writers(
    root: Path, catalogue: Catalogue, shard: int, groups: Sequence[Group]
) -> Iterator[Mapping[Group, GroupWriter]]:
    """Open a shard of some groups for writing.

    Give every writer each image in order, image by image, then commit every writer. A shard that is
    not committed when the block ends leaves no file. Prefixes belong to the first shard.
    """
    with ExitStack() as stack:
        if catalogue.manifest.format == "webdataset":
            yield stack.enter_context(SampleShardWriter(root, catalogue, shard, groups))
            return
        yield {
            group: stack.enter_context(
                GroupShardWriter(
                    root,
                    group,
                    shard,
                    _arrays(catalogue, group, shard),
                    catalogue.manifest.content_digest(group),
                )
            )
            for group in groups
        }


def arrays_of_objects(manifest: Manifest, group: Group, shard: int) -> dict[str, tuple[str, ...]]:
    """Return the files that a group's shard must have, each with its arrays over images."""
    specs = manifest.arrays[group]
    images = {name: spec for name, spec in specs.items() if not is_prefix(name)}
    prefixes = {name: spec for name, spec in specs.items() if is_prefix(name) and shard == 0}
    if manifest.format == "webdataset":
        files: dict[str, tuple[str, ...]] = {prefix_path(spec): () for spec in prefixes.values()}
        return {**files, tar_path(shard): tuple(images)}
    files = {spec.object_path(0): () for spec in prefixes.values()}
    return {**files, **{spec.object_path(shard): (name,) for name, spec in images.items()}}


def prefix_object(manifest: Manifest, name: str) -> str:
    """Return the file of an array that a store has once."""
    spec = manifest.specs[name]
    return prefix_path(spec) if manifest.format == "webdataset" else spec.object_path(0)


def array_metadata(root: Path, manifest: Manifest) -> dict[str, bytes]:
    """Return the metadata files of the arrays by path in the store; empty if there are none."""
    return metadata(root, manifest.specs.values()) if manifest.format == "zarr" else {}


def _arrays(catalogue: Catalogue, group: Group, shard: int) -> Mapping[str, ArraySpec]:
    return catalogue.manifest.arrays[group] if shard == 0 else catalogue.image_arrays(group)
