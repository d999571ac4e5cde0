"""Write one shard of a WebDataset store: a tar with one sample per image, fed group by group."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

from lens_cache.errors import CorruptShardError
from lens_cache.store.catalogue import Catalogue
from lens_cache.store.commits import Commit, ObjectRecord, commit_path
from lens_cache.store.io.files import crc32c, write_bytes
from lens_cache.store.layout import GROUPS, Group
from lens_cache.store.quarantine import Quarantine
from lens_cache.store.webdataset.reader import SampleReader
from lens_cache.store.webdataset.samples import (
    INCOMPLETE,
    describe_sample,
    npy_header,
    prefix_path,
    shape_of,
    suffix,
    tar_path,
)
from lens_cache.store.webdataset.tar_file import TarWriter
from lens_cache.store.zarr.writer import seal

Parts = Mapping[str, bytes]


class SampleShardWriter:
    """Writes the tar of a lens shard.

    A sample contains all groups, but each group has its own commit and can be extracted again
    alone: ``ports`` has a writer for each group that is extracted, and the parts that other groups
    have committed are copied from the existing tar after a check of their checksums.

    A sample is written when every port has its part, so feed the ports image by image. The tar and
    all commits are published when the last port commits.

    Attributes:
        ports: The writer of each group that is extracted.
    """

    def __init__(
        self, root: Path, catalogue: Catalogue, shard: int, groups: Sequence[Group]
    ) -> None:
        self._root, self._catalogue, self._shard = root, catalogue, shard
        self._images = catalogue.images(shard)
        self._kept = [
            _KeptGroup(root, catalogue, group, shard)
            for group in GROUPS
            if group not in groups and commit_path(root, group, shard).exists()
        ]
        self.ports = {group: GroupPort(self, root, catalogue, group, shard) for group in groups}
        self._waiting: dict[str, dict[Group, Parts]] = {}
        self._next = 0
        self._tar = TarWriter(root, root / tar_path(shard))

    def __enter__(self) -> Mapping[Group, GroupPort]:
        return self.ports

    def __exit__(self, *_: object) -> None:
        self._tar.__exit__()

    def offer(self, group: Group, image_id: str, parts: Parts) -> None:
        """Accept the part of an image from a group; empty if the image was quarantined."""
        self._waiting.setdefault(image_id, {})[group] = parts
        while self._next < len(self._images):
            image = self._images[self._next]
            expected = self._catalogue.image_id(image)
            if len(self._waiting.get(expected, ())) < len(self.ports):
                return
            self._write(image, self._waiting.pop(expected))
            self._next += 1

    def publish_if_last(self) -> None:
        """Publish tar and commits when every port has committed."""
        if not all(port.committed for port in self.ports.values()):
            return
        self._tar.publish()
        tar = ObjectRecord(path=tar_path(self._shard), size=self._tar.size, crc32c=self._tar.crc)
        # Commits of new groups come last: without them the shard of a killed writer is written
        # again.
        for kept in self._kept:
            kept.save(tar)
        for port in self.ports.values():
            port.save(tar)

    def _write(self, image: int, found: Mapping[Group, Parts]) -> None:
        """Write a sample; an image that no group has is skipped."""
        every = [*found.values(), *(kept.parts(image) for kept in self._kept)]
        parts = {name: data for mine in every for name, data in mine.items()}
        if not parts:
            return
        whole = len(every) == len(GROUPS) and all(every)
        image_id = self._catalogue.image_id(image)
        key = image_id if whole else INCOMPLETE + image_id
        self._tar.add(f"{key}.json", describe_sample(self._catalogue, image, parts))
        rows = self._catalogue.text_rows(image)
        for group in GROUPS:
            for name, spec in sorted(self._catalogue.image_arrays(group).items()):
                if name in parts:
                    header = npy_header(shape_of(spec, rows), spec.dtype)
                    self._tar.add(f"{key}.{suffix(name)}", header, parts[name])


class GroupPort:
    """Writer of one group: accepts its part of every image in order; see ``GroupShardWriter``."""

    def __init__(
        self, sample: SampleShardWriter, root: Path, catalogue: Catalogue, group: Group, shard: int
    ) -> None:
        self._sample, self._root, self._group = sample, root, group
        self._specs = catalogue.manifest.arrays[group]
        content = catalogue.manifest.content_digest(group)
        self._commit = Commit(group=group, shard=shard, objects=[], content=content)
        self._prefixes: dict[str, bytes] = {}
        self._quarantine: list[Quarantine] = []
        self.size = 0
        self.committed = False

    @property
    def checksums(self) -> Mapping[str, Mapping[str, int]]:
        """CRC-32C of the part of each array, for each image written so far."""
        return self._commit.images

    def add_prefix(self, name: str, data: bytes) -> None:
        """Store the states of the system prefix, to be published with the shard."""
        self._prefixes[name] = data
        self.size += len(data)

    def add(self, image_id: str, values: Parts) -> None:
        """Write the part of every array that belongs to the next image."""
        self._commit.images[image_id] = {name: crc32c(data) for name, data in values.items()}
        self.size += sum(len(data) for data in values.values())
        self._sample.offer(self._group, image_id, values)

    def skip(self, quarantine: Quarantine, text_rows: int) -> None:
        """Skip the next image; ``text_rows`` is for formats that reserve space for it."""
        self._quarantine.append(quarantine)
        self._commit.images[quarantine.image_id] = {}
        self._sample.offer(self._group, quarantine.image_id, {})

    def commit(self, computed: Mapping[str, str]) -> None:
        """End the group; the last port to commit publishes the shard.

        Args:
            computed: As in ``Commit``.
        """
        self._commit.computed.update(computed)
        self.committed = True
        self._sample.publish_if_last()

    def save(self, tar: ObjectRecord) -> None:
        """Publish prefixes and records of a shard after its tar."""
        self._commit.objects.append(tar)
        for name, data in self._prefixes.items():
            spec = self._specs[name]
            content = npy_header(spec.shape, spec.dtype) + data
            path = prefix_path(spec)
            write_bytes(self._root, self._root / path, content)
            self._commit.objects.append(
                ObjectRecord(path=path, size=len(content), crc32c=crc32c(content))
            )
        seal(self._root, self._commit, self._quarantine)


class _KeptGroup:
    """A group of the shard that is copied while the tar is written again."""

    def __init__(self, root: Path, catalogue: Catalogue, group: Group, shard: int) -> None:
        self._root, self._catalogue = root, catalogue
        self._commit = Commit.load(root, group, shard, catalogue.manifest.content_digest(group))
        self._reader = SampleReader(root, catalogue, fetch=True)

    def parts(self, image: int) -> Parts:
        """Return the group's part of an image; empty if the image was quarantined.

        Raises:
            CorruptShardError: If it is damaged.
        """
        image_id, parts = self._catalogue.image_id(image), {}
        for name, crc in self._commit.images[image_id].items():
            data = self._reader.part(name, image).tobytes()
            if crc32c(data) != crc:
                raise CorruptShardError(
                    f"carrying {name} of image {image_id} over into a new tar of {self._root}: it "
                    "does not match its checksum; run `lens-cache verify STORE --repair`"
                )
            parts[name] = data
        return parts

    def save(self, tar: ObjectRecord) -> None:
        """Record the new tar in the group's commit."""
        others = [record for record in self._commit.objects if record.path != tar.path]
        dataclasses.replace(self._commit, objects=[tar, *others]).save(self._root)
