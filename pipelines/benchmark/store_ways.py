"""Ways to store features and read them: ours, plain Zarr, and the limit.

Every way returns records whose tensors are writable and own their memory, as training needs them; a
way that reads a view of a file copies it.
"""

from __future__ import annotations

import gc
import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
import zarr
from numpy.typing import NDArray
from torch import Tensor

from lens_cache.config.fields import StoreFormat
from lens_cache.store.layout import IMAGE_EMBEDDINGS, array_name
from lens_cache.store.store import Store
from lens_cache.store.webdataset.stream import SampleStream
from pipelines.benchmark.random_features import RandomFeatures, Record
from pipelines.benchmark.random_store import LAYER, write_store

SHARD_SIZE = 16  # images of a shard, a tar or a chunk, in every way that has them
SHUFFLE_BUFFER = 32  # records that a stream draws from
# The arrays of the parts of a record, in the order of PARTS.
_NAMES = (
    array_name(LAYER, "image_tokens"),
    IMAGE_EMBEDDINGS,
    array_name(LAYER, "text_tokens"),
)


class Way(ABC):
    """One way to store and read features.

    Attributes:
        name: Its name.
        how: Its configuration in a few words.
    """

    name: str
    how: str

    def __init__(self, folder: Path, features: RandomFeatures) -> None:
        self.folder, self.features = folder, features

    @abstractmethod
    def write(self) -> None:
        """Write all records below ``folder``, which exists."""

    @abstractmethod
    def open(self) -> None:
        """Open the files, as a training run does once."""

    @abstractmethod
    def sequential(self) -> Iterator[Record]:
        """Yield the records in order."""

    @abstractmethod
    def shuffled(self, seed: int) -> Iterator[Record]:
        """Yield the records in an order determined by a seed."""

    def close(self) -> None:
        """Release the resources of ``open``, such as memory maps."""
        for name in vars(self).keys() - {"folder", "features"}:
            delattr(self, name)
        gc.collect()  # readers have caches that refer to themselves


class RandomAccess(Way):
    """A way with random access."""

    @abstractmethod
    def read(self, image: int) -> Record:
        """Return a record."""

    def sequential(self) -> Iterator[Record]:
        """Yield the records in order."""
        return map(self.read, range(self.features.images))

    def shuffled(self, seed: int) -> Iterator[Record]:
        """Yield the records in random order."""
        return map(
            self.read, np.random.default_rng(seed).permutation(self.features.images).tolist()
        )


class Raw(RandomAccess):
    """The limit: all records one after another in a file; a read is one copy out of its map."""

    name = "raw memory map"
    how = "np.memmap, one copy a record"

    def write(self) -> None:
        """Write the file."""
        with (self.folder / "records.bin").open("wb") as file:
            for record in self.features:
                for tensor in record.tensors():
                    file.write(as_bits(tensor).tobytes())

    def open(self) -> None:
        """Map the file and compute the offsets of the records."""
        self._map = np.memmap(self.folder / "records.bin", dtype=np.uint8, mode="r")
        images = range(self.features.images)
        self._shapes = [list(self.features.shapes(image).values()) for image in images]
        sizes = [2 * sum(math.prod(shape) for shape in shapes) for shapes in self._shapes]
        self._ends = np.cumsum([0, *sizes]).tolist()

    def read(self, image: int) -> Record:
        """Copy a record and split it into its parts."""
        values = torch.from_numpy(np.array(self._map[self._ends[image] : self._ends[image + 1]]))
        shapes = self._shapes[image]
        parts = torch.split(values.view(torch.bfloat16), [math.prod(shape) for shape in shapes])
        tokens, embedding, text = (p.view(s) for p, s in zip(parts, shapes, strict=True))
        return Record(tokens, embedding, [text])


class _OurStore(RandomAccess):
    """A store of one format, read at random as a training or an evaluation does."""

    format: StoreFormat

    def write(self) -> None:
        """Write a store."""
        write_store(self.folder, self.features, self.format, shard_size=SHARD_SIZE)

    def open(self) -> None:
        """Open the store."""
        self._store = Store(self.folder)

    def read(self, image: int) -> Record:
        """Read an image with all its questions."""
        store = self._store
        found = store.read(image, store.plan.query_range(image), LAYER)
        return Record(found.image_tokens, found.image_embedding, found.text_tokens)


class OurZarr(_OurStore):
    """Our Zarr store by memory map."""

    name = "lens-cache, zarr"
    how = "Store.read by memory map"
    format = "zarr"


class OurTars(_OurStore):
    """Our WebDataset store by memory map, as a validation reads it."""

    name = "lens-cache, tars at random"
    how = "Store.read by memory map"
    format = "webdataset"


class OurStream(Way):
    """Our WebDataset store from end to end, every part checked, as a streamed training reads it."""

    name = "lens-cache, tars streamed"
    how = "whole tars, CRC-32C of every part"

    def write(self) -> None:
        """Write a store."""
        write_store(self.folder, self.features, "webdataset", shard_size=SHARD_SIZE)

    def open(self) -> None:
        """Open the store."""
        self._store = Store(self.folder)
        self._stream = SampleStream(self.folder, self._store.catalogue, _NAMES)

    def sequential(self) -> Iterator[Record]:
        """Yield the records tar by tar."""
        return self._tars(range(self._store.catalogue.num_shards))

    def shuffled(self, seed: int) -> Iterator[Record]:
        """Yield them from a shuffle buffer, the tars in random order."""
        rng = np.random.default_rng(seed)
        tars = self._tars(rng.permutation(self._store.catalogue.num_shards).tolist())
        buffer: list[Record] = []
        for record in tars:
            buffer.append(record)
            if len(buffer) == SHUFFLE_BUFFER:
                yield _draw(buffer, rng)
        while buffer:
            yield _draw(buffer, rng)

    def _tars(self, shards: range | list[int]) -> Iterator[Record]:
        reader = self._store.features
        for shard in shards:
            images = list(self._store.catalogue.images(shard))
            for _, values in self._stream.read(shard, images):
                tokens, embedding, text = (reader.tensor(name, values[name]) for name in _NAMES)
                yield Record(tokens, embedding, [text])


class PlainZarr(RandomAccess):
    """Our Zarr store read by zarr-python, which decodes bfloat16 to float32."""

    name = "zarr-python"
    how = "our store, array[i] to float32 and back to bfloat16"

    def write(self) -> None:
        """Write a store."""
        write_store(self.folder, self.features, "zarr", shard_size=SHARD_SIZE)

    def open(self) -> None:
        """Open the arrays; the rows of text tokens come from our tables."""
        group = zarr.open_group(self.folder, mode="r")
        catalogue = Store(self.folder).catalogue
        self._arrays = [group[catalogue.manifest.specs[name].path] for name in _NAMES]
        starts = [catalogue.first_row(image) for image in range(self.features.images)]
        self._rows = [
            slice(start, start + catalogue.text_rows(image)) for image, start in enumerate(starts)
        ]

    def read(self, image: int) -> Record:
        """Read one entry of each array."""
        tokens, embeddings, text = self._arrays
        return Record(
            torch.from_numpy(tokens[image]).bfloat16(),  # type: ignore[index]
            torch.from_numpy(embeddings[image]).bfloat16(),  # type: ignore[index]
            [torch.from_numpy(text[self._rows[image]]).bfloat16()],  # type: ignore[index]
        )


def as_bits(tensor: Tensor) -> NDArray[np.uint16]:
    """Return the bits of bfloat16 values, which NumPy does not have."""
    bits: NDArray[np.uint16] = tensor.view(torch.uint16).numpy()
    return bits


def from_bits(values: NDArray[np.uint16]) -> Tensor:
    """Return the values of ``as_bits``; shares memory."""
    return torch.from_numpy(values).view(torch.bfloat16)


def _draw(buffer: list[Record], rng: np.random.Generator) -> Record:
    place = int(rng.integers(len(buffer)))
    buffer[place], buffer[-1] = buffer[-1], buffer[place]
    return buffer.pop()
