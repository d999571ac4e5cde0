"""Write the trained head of a run as a folder of its own, with a card of what was measured."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi

from lens_cache.assets import SHAPES_MODELS
from lens_cache.encoders.checkpoints import weights_digest
from lens_cache.errors import CheckpointError, ConfigError, one_line
from lens_cache.predictor.trained_head import CARD_FILE, PACKAGED, TrainedHead
from lens_cache.store.io.files import folder_in_one_step
from lens_cache.training.run import Run, Which
from pipelines.inference.card import model_card
from pipelines.reports.report import Report


def export(
    run: Path, folder: Path, *, which: Which | None = None, push: str | None = None, public: bool
) -> Report:
    """Export a run; the folder appears when it is complete.

    Args:
        run: The training run.
        folder: Must not exist or be empty.
        which: Checkpoint; by default the best one, or the last one if there is no best one.
        push: Also upload it to this repository of the Hugging Face hub.
        public: Whether a new repository is public.

    Raises:
        CheckpointError: If it is no run, or the upload fails.
        ConfigError: If the folder is not empty.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(
            f"exporting {run}: {folder} already has something; give a new folder, or remove it"
        )
    opened = Run.open(run)
    head = dataclasses.replace(
        TrainedHead.of_run(opened, which),
        name=push or folder.name,
        scores=measured_scores(opened, opened.checkpoint(which).name),
    )
    head = dataclasses.replace(head, encoders=_portable(head))
    with folder_in_one_step(folder) as new:
        head.save(new)
        (new / CARD_FILE).write_text(model_card(head, opened), encoding="utf-8")
    size = sum(path.stat().st_size for path in folder.iterdir())
    lines = [f"exported {run} to {folder} ({size / 1e6:.1f} MB)"]
    if not head.scores:
        lines.append("no scores yet: run `lens-cache evaluate` on a split, then export again")
    if head.calibration is None:
        lines.append(
            "no calibration: run `lens-cache evaluate` with --calibrate on a validation split"
        )
    if push is not None:
        lines.append(f"uploaded to {_upload(folder, push, public)}")
    document = {
        "folder": str(folder),
        "bytes": size,
        "scores": dict(head.scores),
        "calibrated": head.calibration is not None,
        "repository": push,
    }
    return Report(document, "\n".join(lines))


def measured_scores(run: Run, checkpoint: str) -> dict[str, Any]:
    """Return the scores of the run's evaluations of a checkpoint, by split.

    Only whole splits count. The evaluation's own ``report.json`` is the source.
    """
    scores: dict[str, Any] = {}
    for path in sorted((run.folder / "evaluation").glob("*/report.json")):
        report = json.loads(path.read_text(encoding="utf-8"))
        if report["checkpoint"] != checkpoint or report.get("limit") is not None:
            continue
        scores[report["split"]] = {
            "images": report["images"],
            "queries": report["overall"]["queries"],
            "giou": report["overall"]["giou"],
            "ciou": report["overall"]["ciou"],
            "trained_on": report["trained_on"],
            "confidence": report["confidence"],
        }
    return scores


def _portable(head: TrainedHead) -> Mapping[str, Any]:
    """Return settings that name the package's own models by a word, not by a path."""
    tree = json.loads(json.dumps(head.encoders))
    here = {
        "hidden_states": weights_digest(SHAPES_MODELS / "llava"),
        "image_embeddings": weights_digest(SHAPES_MODELS / "sam.pth"),
    }
    if all(head.fingerprints[group]["weights"] == digest for group, digest in here.items()):
        tree["encoders"]["root"] = PACKAGED
        tree["encoders"]["llava"]["checkpoint"] = "llava"
        tree["encoders"]["sam"]["checkpoint"] = "sam.pth"
    tree["data"]["root"] = None
    return {name: tree[name] for name in ("data", "encoders")}


def _upload(folder: Path, repository: str, public: bool) -> str:
    try:
        hub = HfApi()
        hub.create_repo(repository, private=not public, exist_ok=True)
        return str(hub.upload_folder(repo_id=repository, folder_path=folder))
    except Exception as error:  # hub, HTTP and TLS libraries have exceptions of their own
        raise CheckpointError(
            f"uploading {folder} to {repository}: {one_line(error, 200)}; log in with `hf auth "
            "login`, or upload the folder by hand"
        ) from None
