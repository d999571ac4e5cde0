"""A small world of pictures with bad ones among them, and what its undisturbed store looks like."""

import io
import json
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lens_cache.config.data import DataConfig
from lens_cache.toy.random_checkpoints import write_tiny_checkpoints
from tests.support.pictures import box_polygon, colours, encoded
from tests.support.stores import contents, extracted, settings

IMAGES, SHARD = 30, 3
COMMITS = 2 * IMAGES // SHARD  # of both groups


@dataclass(frozen=True)
class World:
    """Data, models, and a store of them that was extracted in one process without interruption."""

    data: Path
    checkpoints: Path
    whole: Path

    def overrides(self):
        """Return the command-line words that lead to the same store."""
        values = {
            "data.kind": "jsonl",
            "data.root": self.data,
            "encoders.root": self.checkpoints,
            "encoders.llava.checkpoint": "llava",
            "encoders.llava.layers": "[4]",
            "encoders.llava.dtype": "float32",
            "encoders.sam.checkpoint": "sam.pth",
            "encoders.sam.dtype": "float32",
            "store.shard_size": SHARD,
            "workers.decode_threads": 1,
        }
        return [word for key, value in values.items() for word in ("--set", f"{key}={value}")]

    def differences(self, root):
        """Return the files that differ from the undisturbed store's, but for records of runs."""
        found, expected = contents(root), contents(self.whole)
        names = found.keys() | expected.keys()
        return sorted(name for name in names if found.get(name) != expected.get(name))


def make_world(folder):
    """Draw the pictures, write the tiny checkpoints and extract the undisturbed store."""
    data, checkpoints, whole = folder / "data", folder / "checkpoints", folder / "whole"
    data.mkdir(parents=True)
    pictures = {f"{n:02d}.png": encoded(colours(40, 30, seed=n)) for n in range(IMAGES)}
    pictures["07.png"] = pictures["07.png"][:-2000]  # its header is sound, so the plan takes it
    pictures["bomb.png"] = bomb(60_000)
    lines = []
    for number, (name, content) in enumerate(pictures.items()):
        (data / name).write_bytes(content)
        for instruction in ("the box", "what is in the corner?")[: 1 + number % 2]:
            mask = {"polygons": [box_polygon(0, 0, 9, 9)]}
            lines.append(json.dumps({"image": name, "instruction": instruction, "mask": mask}))
    (data / "data.jsonl").write_text("\n".join(lines))
    write_tiny_checkpoints(checkpoints)
    config = settings(DataConfig(kind="jsonl", root=data), checkpoints, shard_size=SHARD)
    summary = extracted(whole, config)
    assert summary.images == IMAGES
    assert summary.skipped.num_rows > 0, "the bomb was not skipped"
    assert {record.path for record in summary.quarantined} == {"07.png"}
    return World(data, checkpoints, whole)


def bomb(side):
    """Return a PNG of a few hundred bytes that claims to be ``side`` pixels wide and high."""
    source, sink = io.BytesIO(encoded(np.zeros((8, 8, 3), np.uint8))), io.BytesIO()
    sink.write(source.read(8))
    length, kind = struct.unpack(">I4s", source.read(8))
    header = struct.pack(">II", side, side) + source.read(length)[8:]
    source.read(4)
    sink.write(struct.pack(">I4s", length, kind) + header)
    sink.write(struct.pack(">I", zlib.crc32(kind + header)) + source.read())
    return sink.getvalue()
