"""Small sets in the place of LISA's: a JSON file a split, pictures beside it."""

import json
from pathlib import PurePosixPath

import numpy as np

from lens_cache.datasets.base import ImageRecord, QueryRecord, Rejected, SegmentationDataset
from lens_cache.datasets.lisa import KINDS
from lens_cache.datasets.lisa.sets import SetKind, require_files
from lens_cache.images import masks
from tests.support.pictures import colours, encoded

GROUPS = {
    "ade20k": "semantic",
    "pascal_part": "semantic",
    "paco_lvis": "semantic",
    "refcoco": "referring",
    "refcocog": "referring",
    "reason_seg": "reasoning",
}
SPLITS = {"refcoco": ("train", "val", "test", "testA"), "reason_seg": ("train", "val", "test")}


class FakeSet(SegmentationDataset):
    """The records that a JSON file lists: [path, [[words, ...], ...], length] for each image."""

    def __init__(self, root, name, rules):
        file = f"{name.name}/{name.split}.json"
        require_files(root, name, [file], f"get it at https://example.org/{name.name}")
        self.name, self.source, self.rejected = str(name), PurePosixPath(file), ()
        self.set, self.rules = name, rules
        self.lines = json.loads((root / file).read_text())

    def __len__(self):
        return len(self.lines)

    def __getitem__(self, index):
        path, queries, length = self.lines[index]
        kind = {"semantic": "class", "referring": "referring", "reasoning": "reasoning"}
        return ImageRecord(
            path=PurePosixPath(path),
            dataset=self.set.name,
            queries=tuple(
                QueryRecord(
                    instruction=words[0],
                    alternatives=tuple(words[1:]),
                    kind=kind[GROUPS[self.set.name]],
                    length=length,
                    split=self.set.split,
                    target=target(place),
                    ignore=None,
                )
                for place, words in enumerate(queries)
            ),
            rejected=() if queries else (Rejected("image", "has no label"),),
        )


def target(place):
    """Return a mask that is different for every place of a query."""
    mask = np.zeros((8, 12), dtype=bool)
    mask[: 1 + place // 12, place % 12] = True
    return masks.encode(mask)


def fake_kinds():
    """Return what stands in ``KINDS``."""
    return {
        name: SetKind(
            group=group,
            splits=SPLITS.get(name, ("train",)),
            open=FakeSet,
            source=f"get it at https://example.org/{name}",
        )
        for name, group in GROUPS.items()
    }


def only_fake_kinds(monkeypatch):
    """Let ``KINDS`` hold these and nothing else."""
    for name in reversed(list(KINDS)):  # what goes last comes back first, so their order stays
        monkeypatch.delitem(KINDS, name)
    for name, kind in fake_kinds().items():
        monkeypatch.setitem(KINDS, name, kind)


def write_set(root, name, records, split="train"):
    """Write a set: (path, seed of the picture or None for no file, queries, length) per image."""
    lines = []
    for path, seed, queries, length in records:
        file = root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        if seed is not None:
            file.write_bytes(encoded(colours(seed=seed)))
        lines.append([path, queries, length])
    (root / name).mkdir(parents=True, exist_ok=True)
    (root / name / f"{split}.json").write_text(json.dumps(lines))


def write_world(root):
    """Write all six sets; image k of a set has k % 7 queries, so some have none, some very many."""
    seed = 0
    for name, group in GROUPS.items():
        records = []
        for image in range(11):
            count = (image * 3) % 7 + (14 if image == 5 else 0)
            queries = [_words(name, image, place) for place in range(count)]
            if group != "semantic" and not queries:
                queries = [["The Lonely One"]]
            long = group == "reasoning" and image % 3 > 0
            records.append((f"{name}/{image}.png", seed, queries, "long" if long else "short"))
            seed += 1
        write_set(root, name, records)
    return root


def _words(name, image, place):
    if name == "pascal_part" or (name == "paco_lvis" and place % 2):
        return [f"Bus{image} wheel{place}", f"the wheel{place} of the Bus{image}"]
    return [f"Thing {image} {place}"]
