"""Small benchmarks about the world of shapes, in the files of the real ones."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from lens_cache.benchmarks.items import ROTATION
from lens_cache.benchmarks.prompts import ANSWER_YES_NO, LETTERS
from lens_cache.benchmarks.table import write_rows
from lens_cache.images import masks
from lens_cache.images.png import png_base64
from lens_cache.progress import Progress, no_progress
from lens_cache.store.io.files import folder_in_one_step
from lens_cache.toy.choices import Choice, sample_choices, sample_yes_no
from lens_cache.toy.drawing import PaintedScene, sample_painted_scene
from lens_cache.toy.instructions import sample_instructions
from lens_cache.toy.language import pick
from lens_cache.toy.requests import sample_request

# First number of the seed of a scene: no world and no training uses it.
SEED = 2015
QUESTIONS = 2
ROUTING_FILE = "routing.jsonl"
_COLUMNS = {
    "MME.tsv": ["index", "image", "category", "question", "answer", "image_path"],
    "MMBench_DEV_EN.tsv": [
        *("index", "image", "question", "A", "B", "C", "D", "answer", "category", "split")
    ],
    "MMMU_DEV_VAL.tsv": [
        *("index", "image", "question", "A", "B", "C", "D", "answer", "category", "split")
    ],
    "MMStar.tsv": ["index", "image", "question", "A", "B", "C", "D", "answer", "category"],
}


def write_shapes_benchmarks(
    folder: Path, scenes: int, *, seed: int = 0, progress: Progress = no_progress
) -> None:
    """Write MME, MMBench, MMMU and MMStar about drawn scenes, and requests to route.

    MMBench has four rotations of each question; half of MMMU's questions are open.

    Args:
        folder: Must not exist; it appears when it is complete.
        scenes: Number of scenes of each benchmark.
        seed: Chooses the scenes.
        progress: Called with the name of the step, scenes done and scenes in all.
    """
    rows: dict[str, list[dict[str, str]]] = {name: [] for name in _COLUMNS}
    with folder_in_one_step(folder) as new:
        (new / "images").mkdir()
        lines = []
        for index in range(scenes):
            rng = np.random.default_rng([SEED, seed, index])
            painted = sample_painted_scene(rng)
            picture = png_base64(Image.fromarray(painted.image))
            for name, found in _questions(painted, rng, index):
                rows[name].append({**found, "image": picture})
            lines += _requests(new, painted, rng, index)
            progress("benchmarks", index + 1, scenes)
        for name, columns in _COLUMNS.items():
            (new / name).write_bytes(write_rows(columns, _numbered(rows[name])))
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (new / ROUTING_FILE).write_text(text, encoding="utf-8")


def _questions(
    painted: PaintedScene, rng: np.random.Generator, index: int
) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield the rows of each file about a scene."""
    scene = painted.scene
    pairs = {choice.answer: choice for choice in sample_yes_no(scene, rng, 8)}
    if len(pairs) == 2:  # MME asks two questions about an image, one for each answer
        for choice in pairs.values():
            yield (
                "MME.tsv",
                {
                    "category": choice.type,
                    "question": f"{choice.text} {ANSWER_YES_NO}",
                    "answer": choice.options[choice.answer].capitalize(),
                    "image_path": f"{choice.type}/{index}.png",
                },
            )
    for choice in sample_choices(scene, rng, QUESTIONS):
        for turn in range(len(choice.options)):
            yield "MMBench_DEV_EN.tsv", {**_row(_rotated(choice, turn)), "turn": str(turn)}
    for number, choice in enumerate(sample_choices(scene, rng, QUESTIONS)):
        row = _row(choice)
        if number == 0:  # an open question
            row = {
                **{name: text for name, text in row.items() if name not in LETTERS},
                "answer": choice.options[choice.answer],
            }
        yield "MMMU_DEV_VAL.tsv", {**row, "split": "validation"}
    for choice in sample_choices(scene, rng, QUESTIONS):
        yield "MMStar.tsv", _row(choice)


def _row(choice: Choice) -> dict[str, str]:
    return {
        "question": choice.text,
        **dict(zip(LETTERS, choice.options, strict=False)),
        "answer": LETTERS[choice.answer],
        "category": choice.type,
    }


def _rotated(choice: Choice, turn: int) -> Choice:
    """Return a question whose options are moved on by ``turn`` places."""
    count = len(choice.options)
    options = tuple(choice.options[(place - turn) % count] for place in range(count))
    return Choice(choice.type, choice.text, options, (choice.answer + turn) % count)


def _numbered(rows: list[dict[str, str]]) -> list[dict[str, str]]:
    """Return rows with an index; the rotations of a question share it up to ``ROTATION``."""
    numbered, first = [], -1
    for row in rows:
        turn = int(row.pop("turn", "0"))
        first += turn == 0
        numbered.append({**row, "index": str(first + turn * ROTATION)})
    return numbered


def _requests(
    folder: Path, painted: PaintedScene, rng: np.random.Generator, index: int
) -> list[dict[str, object]]:
    """Write the image of a scene, and return one request of each kind about it."""
    image = f"images/{index:04d}.png"
    Image.fromarray(painted.image).save(folder / image)
    found: list[dict[str, object]] = []
    instructions = sample_instructions(painted.scene, rng)
    by_tier = [
        [one for one in instructions if (one.kind == "reasoning") == reasoning]
        for reasoning in (False, True)
    ]
    for instruction in (pick(rng, group) for group in by_tier if group):
        found.append(
            {
                "image": image,
                "request": instruction.text,
                "route": "segmentation",
                "tier": "reasoning" if instruction.kind == "reasoning" else "explicit",
                "mask": masks.encode(painted.mask(*instruction.things)),
            }
        )
    for _ in range(2):
        request = sample_request(painted.scene, rng, held_out=True)
        if request.route != "segmentation":
            tier = "dialogue" if request.route == "dialogue" else "mixed"
            found.append(
                {"image": image, "request": request.text, "route": request.route, "tier": tier}
            )
    return found
