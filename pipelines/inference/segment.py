"""Segment image files by instructions; write masks, overlays and panels."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lens_cache.errors import ImageError
from lens_cache.images.files import IMAGE_SUFFIXES, files_in
from lens_cache.predictor.predictor import LensPredictor
from lens_cache.predictor.segmentation import Segmentation
from pipelines.provenance import record_run
from pipelines.reports.report import Report


def segment(
    predictor: LensPredictor, image: Path, instructions: Sequence[str], out: Path
) -> Report:
    """Write for each image and instruction ``NAME_mask.png``, ``_overlay.png`` and ``_panel.png``.

    Args:
        predictor: The predictor.
        image: An image file, or a folder of them.
        instructions: The instructions; each image is encoded once for all of them.
        out: Output folder.

    Raises:
        LensCacheError: If an image cannot be read, a folder has none or an instruction is empty.
    """
    files = _files(image)
    out.mkdir(parents=True, exist_ok=True)
    entries = []
    for file in files:
        found = predictor(file, list(instructions))
        for number, (text, one) in enumerate(zip(instructions, found, strict=True)):
            name = file.stem if len(instructions) == 1 else f"{file.stem}_{number}_{_slug(text)}"
            entries.append(_write(one, file, out, name))
    record_run(out, predictor.head.config)
    return Report({"masks": entries}, "\n".join(_lines(entry) for entry in entries))


def _files(image: Path) -> list[Path]:
    if not image.is_dir():
        return [image]
    files = [image / name for name in files_in(image, IMAGE_SUFFIXES)]
    if not files:
        raise ImageError(f"segmenting {image}: expected images in this folder, found none")
    return files


def _write(found: Segmentation, file: Path, out: Path, name: str) -> dict[str, Any]:
    paths = {part: out / f"{name}_{part}.png" for part in ("mask", "overlay", "panel")}
    found.save(paths["mask"])
    found.overlay().save(paths["overlay"])
    found.panel(f'"{found.instruction}"   {file.name}').save(paths["panel"])
    return {
        "image": str(file),
        "instruction": found.instruction,
        "score": found.score,
        "calibrated": found.calibrated,
        "foreground": float(found.mask.mean()),
        "box": found.box,
        "keypoints": found.keypoints.tolist(),
        "keypoint_labels": found.keypoint_labels.tolist(),
        **{part: str(path) for part, path in paths.items()},
    }


def _lines(entry: dict[str, Any]) -> str:
    kind = "expected IoU" if entry["calibrated"] else "stability"
    return (
        f'{entry["image"]}  "{entry["instruction"]}"\n'
        f"  {kind} {entry['score']:.2f}, {entry['foreground']:.1%} of the image\n"
        f"  mask    {entry['mask']}\n  overlay {entry['overlay']}\n  panel   {entry['panel']}"
    )


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:40] or "mask"
