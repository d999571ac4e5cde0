"""Ways to keep features and read them back: ours, plain Zarr, and the limit.

Every way delivers records whose tensors lie in memory of their own, writable, as a training needs
them: a view of a file is copied, by whoever hands one out.
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
    """One way to keep and read features.

    Attributes:
        name: Its name.
        how: In which configuration it runs, a few words.
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
        """Do what a training does once, before it reads."""

    @abstractmethod
    def sequential(self) -> Iterator[Record]:
        """Yield the records in order."""

    @abstractmethod
    def shuffled(self, seed: int) -> Iterator[Record]:
        """Yield the records in an order that follows from a seed."""

    def close(self) -> None:
        """Give back what ``open`` took, memory maps above all."""
        for name in vars(self).keys() - {"folder", "features"}:
            delattr(self, name)
        gc.collect()  # readers hold caches of their own methods


class RandomAccess(Way):
    """A way that can read any record."""

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

    name, how = "raw memory map", "np.memmap, one copy a record"

    def write(self) -> None:
        """Write the file."""
        with (self.folder / "records.bin").open("wb") as file:
            for record in self.features:
                for tensor in record.tensors():
                    file.write(as_bits(tensor).tobytes())

    def open(self) -> None:
        """Map the file; reckon where records begin."""
        self._map = np.memmap(self.folder / "records.bin", dtype=np.uint8, mode="r")
        images = range(self.features.images)
        self._shapes = [list(self.features.shapes(image).values()) for image in images]
        sizes = [2 * sum(math.prod(shape) for shape in shapes) for shapes in self._shapes]
        self._ends = np.cumsum([0, *sizes]).tolist()

    def read(self, image: int) -> Record:
        """Copy a record and cut it into its parts."""
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

    name, how, format = "lens-cache, zarr", "Store.read by memory map", "zarr"


class OurTars(_OurStore):
    """Our WebDataset store by memory map, as a validation reads it."""

    name, how, format = "lens-cache, tars at random", "Store.read by memory map", "webdataset"


class OurStream(Way):
    """Our WebDataset store from end to end, every part checked, as a streamed training reads it."""

    name, how = "lens-cache, tars streamed", "whole tars, CRC-32C of every part"

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
        """Yield them out of a buffer, the tars in random order."""
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
    """Our Zarr store as any Zarr client sees it."""

    name, how = "zarr-python", "our store, array[i]"

    def write(self) -> None:
        """Write a store."""
        write_store(self.folder, self.features, "zarr", shard_size=SHARD_SIZE)

    def open(self) -> None:
        """Open the arrays; the rows of the text come from our tables."""
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
            from_bits(tokens[image]),  # type: ignore[index,arg-type]
            from_bits(embeddings[image]),  # type: ignore[index,arg-type]
            [from_bits(text[self._rows[image]])],  # type: ignore[index,arg-type]
        )


def as_bits(tensor: Tensor) -> NDArray[np.uint16]:
    """Return bfloat16 values as NumPy knows them: their bits."""
    bits: NDArray[np.uint16] = tensor.view(torch.uint16).numpy()
    return bits


def from_bits(values: NDArray[np.uint16]) -> Tensor:
    """Return values of ``as_bits`` as they were, in the same memory."""
    return torch.from_numpy(values).view(torch.bfloat16)


def _draw(buffer: list[Record], rng: np.random.Generator) -> Record:
    place = int(rng.integers(len(buffer)))
    buffer[place], buffer[-1] = buffer[-1], buffer[place]
    return buffer.pop()
