"""Segment one image file by one instruction; write the mask and a panel."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from lens_cache.images.inputs import rgb_pixels
from lens_cache.predictor import LensPredictor
from lens_cache.training.run import Run, Which
from pipelines.provenance import record_run
from pipelines.reports.report import Report


def segment(
    image: Path,
    instruction: str,
    run: Run,
    out: Path,
    *,
    overrides: tuple[str, ...] = (),
    which: Which | None = None,
    device: str | None = None,
) -> Report:
    """Write ``OUT/<name>_mask.png`` and ``OUT/<name>_panel.png``.

    Raises:
        LensCacheError: If the image cannot be read, the instruction is empty or a checkpoint is
            missing.
    """
    pixels = rgb_pixels(image)
    if run.config.trainer.threads is not None:
        torch.set_num_threads(run.config.trainer.threads)
    out.mkdir(parents=True, exist_ok=True)
    predictor = LensPredictor(run, overrides=overrides, which=which, device=device)
    found = predictor(pixels, instruction)
    mask_path, panel_path = out / f"{image.stem}_mask.png", out / f"{image.stem}_panel.png"
    found.save(mask_path)
    found.overlay(f'"{instruction}"   {image.name}').save(panel_path)
    record_run(out, run.config)
    share = float(np.mean(found.mask))
    document = {
        "image": str(image),
        "instruction": instruction,
        "mask": str(mask_path),
        "panel": str(panel_path),
        "foreground": share,
        "keypoints": found.normalised_keypoints.tolist(),
    }
    text = f"mask  {mask_path} ({share:.1%} of the image)\npanel {panel_path}"
    return Report(document, text)
