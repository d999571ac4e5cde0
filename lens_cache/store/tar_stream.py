"""Read one tar of a WebDataset store from its beginning to its end, with `webdataset` itself."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from webdataset.tariterators import group_by_keys, tar_file_expander

from lens_cache.errors import CorruptShardError, one_line
from lens_cache.store.catalogue import Catalogue
from lens_cache.store.commits import Commit
from lens_cache.store.files import crc32c, open_stream
from lens_cache.store.layout import GROUPS, ArraySpec
from lens_cache.store.samples import npy_values, shape_of, suffix, tar_path

Values = Mapping[str, NDArray[np.uint8]]


class SampleStream:
    """Streams samples of a store, and checks every part against its commit.

    Args:
        root: The store.
        catalogue: Its tables.
        names: Arrays of which an image's part is wanted.
    """

    def __init__(self, root: Path, catalogue: Catalogue, names: Sequence[str]) -> None:
        self._root, self._catalogue = root, catalogue
        groups = catalogue.manifest.arrays.values()
        self._specs = {name: group[name] for group in groups for name in names if name in group}

    def read(self, shard: int, images: Sequence[int]) -> Iterator[tuple[int, Values]]:
        """Yield images of a shard with their parts of the wanted arrays, as read-only bytes.

        Args:
            shard: The shard.
            images: Whole samples of it, in order; the others are passed over.

        Raises:
            CorruptShardError: If the tar is damaged, ends too early or lacks an image.
        """
        path = self._root / tar_path(shard)
        ids = {self._catalogue.image_id(image): image for image in images}
        checksums: dict[str, dict[str, int]] = {image_id: {} for image_id in ids}
        for group in GROUPS:
            commit = Commit.load(self._root, group, shard)
            for image_id in ids:
                checksums[image_id] |= commit.images[image_id]
        samples = self._samples(path, set(ids))
        for image_id, image in ids.items():
            sample = next(samples, None)
            if sample is None or sample["__key__"] != image_id:
                raise _broken(f"{path}: it does not hold image {image_id} in its place")
            values = {}
            for name, spec in self._specs.items():
                found = self._values(sample, image, name, spec)
                if found is None or crc32c(found.tobytes()) != checksums[image_id][name]:
                    raise _broken(f"{path}: {name} of image {image_id} is damaged")
                values[name] = found
            yield image, values

    def _samples(self, path: Path, wanted: set[str]) -> Iterator[Mapping[str, Any]]:
        """Yield the wanted members of the wanted samples; nothing of them touches the disk."""
        ends = {suffix(name) for name in self._specs}

        def choose(name: str) -> bool:
            image_id, _, end = name.partition(".")
            return image_id in wanted and end in ends

        with open_stream(path) as file:
            members = tar_file_expander([{"url": str(path), "stream": file}], select_files=choose)
            try:
                yield from group_by_keys(members)
            except (tarfile.TarError, OSError, ValueError) as error:
                raise _broken(f"{path}: {one_line(error)}") from None

    def _values(
        self, sample: Mapping[str, Any], image: int, name: str, spec: ArraySpec
    ) -> NDArray[np.uint8] | None:
        data = np.frombuffer(sample.get(suffix(name), b""), dtype=np.uint8)
        return npy_values(data, shape_of(spec, self._catalogue.text_rows(image)), spec)


def _broken(what: str) -> CorruptShardError:
    return CorruptShardError(f"streaming {what}; run `lens-cache verify STORE --repair`")
