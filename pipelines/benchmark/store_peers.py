"""Other packages that store tensors, each in its fastest configuration for records of megabytes.

All ways return bfloat16 tensors that own their memory: where a package returns a view of a file it
is cloned. Packages without bfloat16 store its bits.

- ``webdataset``: tars of .npy members written by its ShardWriter, read by
  ``WebDataset(...).decode()``, shuffled by ``shardshuffle`` and ``.shuffle``. Its own .ten format
  was no faster: ``tarfile`` is the bottleneck.
- ``mosaicml-streaming``: local MDS shards, uncompressed, without hashes, ``ndarray`` columns with
  type and, where it is always the same, shape in the index. Records are read by index, which
  was faster than iterating.
- ``litdata``: chunks made by ``optimize``, uncompressed, NumPy arrays; by index, too.
- ``safetensors``: a file per record, ``load_file`` and a clone of its lazy tensors, which was
  faster than ``load`` of the file's bytes.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

import numpy as np
import webdataset
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file

from pipelines.benchmark.random_features import PARTS, RandomFeatures, Record
from pipelines.benchmark.store_ways import (
    SHARD_SIZE,
    SHUFFLE_BUFFER,
    RandomAccess,
    Way,
    as_bits,
    from_bits,
)

# Folders for its temporary files; with the defaults it does not remove them.
_LITDATA_SCRATCH = ("DATA_OPTIMIZER_CACHE_FOLDER", "DATA_OPTIMIZER_DATA_CACHE_FOLDER")


class WebDataset(Way):
    """Tars written and streamed by webdataset."""

    name = "webdataset"
    how = "WebDataset(...).decode(), .npy members"

    def write(self) -> None:
        """Write the tars."""
        pattern = str(self.folder / "%06d.tar")
        with webdataset.ShardWriter(pattern, maxcount=SHARD_SIZE, verbose=0) as writer:
            for image, record in enumerate(self.features):
                arrays = {f"{name}.npy": array for name, array in _arrays(record).items()}
                writer.write({"__key__": f"{image:06d}", **arrays})

    def open(self) -> None:
        """List the tars."""
        self._tars = [str(path) for path in sorted(self.folder.glob("*.tar"))]

    def sequential(self) -> Iterator[Record]:
        """Yield the records tar by tar."""
        return map(self._record, webdataset.WebDataset(self._tars, shardshuffle=False).decode())

    def shuffled(self, seed: int) -> Iterator[Record]:
        """Yield them from a shuffle buffer, the tars in random order."""
        tars = webdataset.WebDataset(self._tars, shardshuffle=len(self._tars), seed=seed)
        return map(self._record, tars.decode().shuffle(SHUFFLE_BUFFER, initial=SHUFFLE_BUFFER))

    def _record(self, sample: Mapping[str, Any]) -> Record:
        return _record({name: sample[f"{name}.npy"] for name in PARTS})


class SafetensorsFiles(RandomAccess):
    """A folder of safetensors files."""

    name = "safetensors"
    how = "a file per record, load_file"

    def write(self) -> None:
        """Write the files."""
        for image, record in enumerate(self.features):
            save_file(record.parts(), self._path(image))

    def open(self) -> None:
        """Do nothing: each file is opened when it is read."""

    def read(self, image: int) -> Record:
        """Load a file."""
        found = load_file(self._path(image))
        tokens, embedding, text = (found[name].clone() for name in PARTS)
        return Record(tokens, embedding, [text])

    def _path(self, image: int) -> Path:
        return self.folder / f"{image:06d}.safetensors"


class MosaicStreaming(RandomAccess):
    """Local MDS shards read by mosaicml-streaming."""

    name = "mosaicml-streaming"
    how = "local MDS, ndarray columns, by index"

    def write(self) -> None:
        """Write the shards."""
        from streaming import MDSWriter

        def column(part: str) -> str:
            shape = self.features.shapes(0)[part]
            return "ndarray:uint16" + (
                "" if part == "text_tokens" else ":" + ",".join(map(str, shape))
            )

        limit = self.features.num_bytes() * SHARD_SIZE // self.features.images
        columns = {part: column(part) for part in PARTS}
        with MDSWriter(
            out=str(self.folder), columns=columns, size_limit=max(limit, 1 << 20)
        ) as writer:
            for record in self.features:
                writer.write(_arrays(record))

    def open(self) -> None:
        """Open the data set, which allocates shared memory; ``close`` frees it."""
        from streaming import StreamingDataset

        self._data = StreamingDataset(local=str(self.folder), batch_size=1, shuffle=False)
        with warnings.catch_warnings():  # once a process: its arrays are copies, but read-only
            warnings.simplefilter("ignore")
            self.read(0)

    def read(self, image: int) -> Record:
        """Return a record."""
        return _record(self._data[image])

    def close(self) -> None:
        """Free the shared memory."""
        from streaming.base.util import clean_stale_shared_memory

        super().close()
        clean_stale_shared_memory()


class LitData(RandomAccess):
    """Chunks read by litdata."""

    name = "litdata"
    how = "optimize, NumPy arrays, by index"

    def write(self) -> None:
        """Write the chunks, in a process that litdata starts."""
        import litdata

        with (
            TemporaryDirectory() as scratch,
            patch.dict(os.environ, dict.fromkeys(_LITDATA_SCRATCH, scratch)),
        ):
            litdata.optimize(
                partial(_arrays_of, self.features),
                list(range(self.features.images)),
                str(self.folder),
                chunk_size=SHARD_SIZE,
                num_workers=1,
                keep_data_ordered=True,
                verbose=False,
            )

    def open(self) -> None:
        """Open the data set."""
        import litdata

        self._data = litdata.StreamingDataset(str(self.folder))

    def read(self, image: int) -> Record:
        """Return a record."""
        return _record(self._data[image])


def _arrays_of(features: RandomFeatures, image: int) -> dict[str, NDArray[np.uint16]]:
    return _arrays(features.record(image))


def _arrays(record: Record) -> dict[str, NDArray[np.uint16]]:
    return {name: as_bits(tensor) for name, tensor in record.parts().items()}


def _record(arrays: Mapping[str, NDArray[np.uint16]]) -> Record:
    tokens, embedding, text = (from_bits(arrays[name]) for name in PARTS)
    return Record(tokens, embedding, [text])
