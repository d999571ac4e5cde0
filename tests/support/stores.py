"""Small stores, made with the tiny checkpoints in this process."""

import shutil
from pathlib import Path

from lens_cache.config.data import DataConfig
from lens_cache.config.extract import (
    EncodersConfig,
    ExtractConfig,
    LlavaConfig,
    SamConfig,
    StoreConfig,
    WorkersConfig,
)
from lens_cache.store.commits import Commit
from lens_cache.store.shared import record_of
from lens_cache.store.zarr.metadata import metadata
from pipelines.extraction.extract import extract
from pipelines.extraction.runners import run_in_process


class Quiet:
    """A reporter that keeps what it is told."""

    def __init__(self):
        self.messages = []
        self.steps = []

    def progress(self, what, done, total):
        self.steps.append((what, done, total))

    def message(self, text):
        self.messages.append(text)


def settings(data, checkpoints, *, shard_size=2, layers=(4,), dtype="float32", **workers):
    """Return extraction settings for a dataset (a ``DataConfig`` or a COCO folder)."""
    if not isinstance(data, DataConfig):
        data = DataConfig(root=Path(data), split="train2017")
    return ExtractConfig(
        data=data,
        encoders=EncodersConfig(
            root=checkpoints,
            llava=LlavaConfig(checkpoint="llava", layers=layers, dtype=dtype),
            sam=SamConfig(checkpoint="sam.pth", dtype=dtype),
        ),
        store=StoreConfig(shard_size=shard_size),
        workers=WorkersConfig(**{"decode_threads": 1, **workers}),
    )


def extracted(root, config, *, runner=run_in_process, reporter=None, **options):
    """Extract to completion and return the summary."""
    return extract(root, config, reporter or Quiet(), runner, **options)


def contents(root):
    """Return every file of a store but the records of runs, by name."""
    return {
        path.relative_to(root).as_posix(): path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.is_file() and path.relative_to(root).parts[0] != "runs"
    }


def assert_same(one, other):
    """Two stores are the same byte for byte, but for the records of their runs."""
    first, second = contents(one), contents(other)
    assert first.keys() == second.keys()
    assert [name for name in first if first[name] != second[name]] == []


def stamps(root):
    """Return inode and time of change of every file."""
    return {
        path.relative_to(root).as_posix(): (path.stat().st_ino, path.stat().st_mtime_ns)
        for path in root.rglob("*")
        if path.is_file()
    }


def copied(store, to):
    """Return a copy of a store, to be spoilt."""
    shutil.copytree(store, to)
    return to


def flip(path, at=None, bits=1):
    """Flip one bit of a file (or more); in its middle, if not told where."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2 if at is None else at] ^= bits
    path.write_bytes(data)


def vouch(root):
    """Record the shared files of a store as they lie on the disk, to say that they were written."""
    names = ["hidden_states/questions.parquet"]
    names += [p.relative_to(root).as_posix() for p in root.rglob("zarr.json")]
    for folder in ("plan", "frozen"):
        names += [p.relative_to(root).as_posix() for p in (root / folder).iterdir()]
    objects = [record_of(name, (root / name).read_bytes()) for name in sorted(names)]
    Commit(group="shared", shard=0, objects=objects).save(root)


def write_metadata(root, arrays):
    """Write the ``zarr.json`` of arrays, as a store that has them does."""
    for name, data in metadata(root, arrays).items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
