"""Write one shard of one feature group, image by image, and commit it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from pathlib import Path

from lens_cache.store.commits import Commit, ObjectRecord
from lens_cache.store.io.files import crc32c, remove_file
from lens_cache.store.layout import ArraySpec, part_of
from lens_cache.store.quarantine import Quarantine, quarantine_paths
from lens_cache.store.zarr.shard_file import ShardWriter


class _Rows:
    """Rows of a flat array, appended in order and split into chunks; the last is zero-padded."""

    def __init__(self, shard: ShardWriter, spec: ArraySpec) -> None:
        self._shard = shard
        self._chunk_bytes = spec.chunk_bytes
        self._pending = bytearray()
        self._next = 0

    def append(self, data: bytes) -> int:
        self._pending += data
        while len(self._pending) >= self._chunk_bytes:
            self._flush()
        return crc32c(data)

    def end(self) -> None:
        if self._pending:
            self._pending += bytes(self._chunk_bytes - len(self._pending))
            self._flush()

    def _flush(self) -> None:
        self._shard.write(self._next, bytes(self._pending[: self._chunk_bytes]))
        del self._pending[: self._chunk_bytes]
        self._next += 1


class GroupShardWriter:
    """Writes a lens shard of one group.

    Call ``add`` or ``skip`` once for every image of the shard, in order, then ``commit``. Leaving
    the ``with`` block without ``commit`` removes the unfinished files.

    Args:
        root: The store.
        group: The feature group.
        shard: The shard's number.
        arrays: The arrays that this shard has a part of, by name.
        content: Digest for its commit, see ``Commit``.
    """

    def __init__(
        self,
        root: Path,
        group: str,
        shard: int,
        arrays: Mapping[str, ArraySpec],
        content: str = "",
    ) -> None:
        self._root = root
        self._commit = Commit(group=group, shard=shard, objects=[], content=content)
        self._quarantine: list[Quarantine] = []
        self._arrays = arrays
        self._open = ExitStack()
        self._shards: dict[str, ShardWriter] = {}
        self._rows: dict[str, _Rows] = {}
        self._position = 0
        for name, spec in arrays.items():
            writer = self._open.enter_context(
                ShardWriter(root, root / spec.object_path(shard), num_chunks=spec.chunks_per_shard)
            )
            self._shards[name] = writer
            if part_of(name) == "text_tokens":
                self._rows[name] = _Rows(writer, spec)

    def __enter__(self) -> GroupShardWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    @property
    def size(self) -> int:
        """Bytes written so far, over all arrays."""
        return sum(writer.size for writer in self._shards.values())

    @property
    def checksums(self) -> Mapping[str, Mapping[str, int]]:
        """CRC-32C of the part of each array, for each image written so far."""
        return self._commit.images

    def add_prefix(self, name: str, data: bytes) -> None:
        """Write an array of one chunk, the states of the system prefix."""
        self._shards[name].write(0, data)

    def add(self, image_id: str, values: Mapping[str, bytes]) -> None:
        """Write the part of every array that belongs to the next image."""
        checksums: dict[str, int] = {}
        for name, data in values.items():
            if name in self._rows:
                checksums[name] = self._rows[name].append(data)
            else:
                checksums[name] = self._shards[name].write(self._position, data)
        self._commit.images[image_id] = checksums
        self._position += 1

    def skip(self, quarantine: Quarantine, text_rows: int) -> None:
        """Skip the next image; its text rows become zeros, its chunks stay absent."""
        for name, rows in self._rows.items():
            rows.append(bytes(text_rows * self._arrays[name].row_bytes))
        self._quarantine.append(quarantine)
        self._commit.images[quarantine.image_id] = {}
        self._position += 1

    def commit(self, computed: Mapping[str, str]) -> None:
        """Publish every object, then the quarantine records, and last the commit record.

        Args:
            computed: As in ``Commit``.
        """
        self._commit.computed.update(computed)
        for name, writer in self._shards.items():
            if name in self._rows:
                self._rows[name].end()
            writer.publish()
            name_in_store = self._arrays[name].object_path(self._commit.shard)
            self._commit.objects.append(
                ObjectRecord(path=name_in_store, size=writer.size, crc32c=writer.crc)
            )
        seal(self._root, self._commit, self._quarantine)


def seal(root: Path, commit: Commit, quarantine: Iterable[Quarantine]) -> None:
    """Write the quarantine records of a shard after its objects, and last its commit."""
    for record in quarantine:
        record.save(root)
    for path in quarantine_paths(root, commit.group):
        if commit.images.get(path.stem):  # the image failed in an earlier run
            remove_file(path)
    commit.save(root)
