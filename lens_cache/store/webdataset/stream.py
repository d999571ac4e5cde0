"""Read one tar of a WebDataset store in order."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lens_cache.errors import CorruptShardError, one_line
from lens_cache.store.catalogue import Catalogue
from lens_cache.store.commits import Commit
from lens_cache.store.feature_reader import reserve
from lens_cache.store.io.files import open_stream
from lens_cache.store.layout import GROUPS
from lens_cache.store.webdataset.samples import npy_header, shape_of, suffix, tar_path
from lens_cache.store.webdataset.tar_file import TarStream

Values = Mapping[str, NDArray[np.uint8]]


class SampleStream:
    """Streams samples of a store and checks every part against its commit.

    Args:
        root: The store.
        catalogue: Its tables.
        names: The arrays to read.
    """

    def __init__(self, root: Path, catalogue: Catalogue, names: Sequence[str]) -> None:
        self._root, self._catalogue = root, catalogue
        self._specs = {name: catalogue.manifest.specs[name] for name in names}
        self._names = {suffix(name): name for name in self._specs}

    def read(self, shard: int, images: Sequence[int]) -> Iterator[tuple[int, Values]]:
        """Yield images of a shard with their parts of the arrays, in memory of their own.

        Args:
            shard: The shard.
            images: Images with complete samples, in order; others are skipped.

        Raises:
            CorruptShardError: If the tar is damaged or truncated, or an image is missing.
        """
        path = self._root / tar_path(shard)
        ids = {self._catalogue.image_id(image): image for image in images}
        checksums: dict[str, dict[str, int]] = {image_id: {} for image_id in ids}
        for group in GROUPS:
            content = self._catalogue.manifest.content_digest(group)
            commit = Commit.load(self._root, group, shard, content)
            for image_id in ids:
                checksums[image_id] |= commit.images[image_id]
        with open_stream(path) as file:
            tar = TarStream(path, file)
            waiting = set(ids)
            for image_id, image in ids.items():
                waiting.remove(image_id)
                try:
                    values = self._sample(tar, image_id, image, waiting, checksums[image_id])
                except OSError as error:
                    raise _broken(f"{path}: {one_line(error)}") from None
                yield image, values

    def _sample(
        self,
        tar: TarStream,
        image_id: str,
        image: int,
        later: set[str],
        checksums: Mapping[str, int],
    ) -> Values:
        """Read the members of the next requested sample."""
        rows = self._catalogue.text_rows(image)
        shapes = {name: shape_of(spec, rows) for name, spec in self._specs.items()}
        sizes = [math.prod(shapes[name]) * spec.item_bytes for name, spec in self._specs.items()]
        values = dict(zip(self._specs, reserve(sizes), strict=True))
        wanted = set(self._specs)
        while wanted:
            member = tar.next()
            owner, _, end = member[0].partition(".") if member else ("", "", "")
            if member is None or owner in later:
                raise _broken(f"{tar.path}: expected image {image_id} next, found none")
            name = self._names.get(end)
            if owner != image_id or name not in wanted:
                continue
            wanted.remove(name)
            header = npy_header(shapes[name], self._specs[name].dtype)
            size = len(header) + len(values[name])
            fits = member[1] == size and tar.take(len(header)) == header
            if not fits or tar.read(values[name]) != checksums[name]:
                raise _broken(f"{tar.path}: {name} of image {image_id} is damaged")
        return values


def _broken(what: str) -> CorruptShardError:
    return CorruptShardError(f"streaming {what}; run `lens-cache verify STORE --repair`")
