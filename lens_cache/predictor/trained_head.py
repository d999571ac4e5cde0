"""A trained head without its store and without its frozen models: of a run, or exported.

FOLDER/model.safetensors    the trained weights
FOLDER/lens.json            settings, frozen models and their fingerprints, calibration, scores
FOLDER/README.md            the model card
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from pydantic import TypeAdapter, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file
from safetensors.torch import save as to_bytes
from torch import Tensor

from lens_cache.assets import SHAPES_HEAD, SHAPES_MODELS
from lens_cache.config.extract import ExtractConfig
from lens_cache.config.load import override_config, parse_config, to_tree
from lens_cache.config.train import ModelConfig, TrainConfig
from lens_cache.errors import CheckpointError, ConfigError, one_line
from lens_cache.evaluation.confidence import Calibration
from lens_cache.features.frozen_parts import FrozenParts
from lens_cache.features.weights import load_strict
from lens_cache.models.lens import LensModel
from lens_cache.store.manifest import with_overrides
from lens_cache.training.run import Run, Which
from lens_cache.version import __version__

WEIGHTS_FILE = "model.safetensors"
LENS_FILE = "lens.json"
CARD_FILE = "README.md"
CALIBRATION_FILE = "calibration.json"
FORMAT = 1
# The head of the world of shapes that comes with the package.
SHAPES = "shapes"
# Stands for the folder of the two tiny models of the package, wherever that is installed.
PACKAGED = "package:shapes_models"


@dataclass(frozen=True, kw_only=True)
class TrainedHead:
    """What was trained, and on which frozen models.

    Attributes:
        name: Where it comes from, for messages.
        config: Settings of the training.
        encoders: Settings of data and frozen models, as the store's manifest has them.
        fingerprints: By feature group, everything that decides its bytes.
        weights: The trained weights by name.
        calibration: Maps the measures of a mask to its expected IoU; None if there is none.
        scores: Measured scores by split; empty if there are none.
    """

    name: str
    config: TrainConfig
    encoders: Mapping[str, Any]
    fingerprints: Mapping[str, Mapping[str, Any]]
    weights: Mapping[str, Tensor]
    calibration: Calibration | None = None
    scores: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def layer(self) -> int:
        """The layer the head reads."""
        assert self.config.model.layer is not None
        return self.config.model.layer

    def digest(self) -> str:
        """Return the SHA-256 of the weights."""
        sha = hashlib.sha256()
        for name, weight in sorted(self.weights.items()):
            sha.update(f"{name}:{weight.dtype}:{tuple(weight.shape)}\n".encode())
            sha.update(weight.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
        return sha.hexdigest()

    @classmethod
    def of_run(cls, run: Run | str | Path, which: Which | None = None) -> TrainedHead:
        """Read a checkpoint of a training run.

        Args:
            run: The run, or its folder.
            which: Checkpoint; by default the best one, or the last one if there is no best one.

        Raises:
            CheckpointError: If it is no run, or the checkpoint does not fit.
        """
        run = run if isinstance(run, Run) else Run.open(run)
        model = run.load_model(which)
        return cls(
            name=str(run.folder),
            config=run.config,
            encoders=to_tree(with_overrides(run.manifest)),
            fingerprints=run.manifest.fingerprints,
            weights=trained_weights(model),
            calibration=read_calibration(run.folder),
        )

    @classmethod
    def from_pretrained(cls, name: str | Path, revision: str | None = None) -> TrainedHead:
        """Read an exported head.

        Args:
            name: A folder, an id of the Hugging Face hub, or ``shapes`` for the head of the world
                of shapes that comes with the package.
            revision: Branch, tag or commit of a hub id.

        Raises:
            CheckpointError: If it is not found, or is not an exported head of this version.
        """
        folder = _find(str(name), revision)
        for file in (LENS_FILE, WEIGHTS_FILE):
            if not (folder / file).is_file():
                raise CheckpointError(
                    f"loading the head {name}: {file} is missing; expected the folder that "
                    "`lens-cache export RUN FOLDER` writes"
                )
        try:
            document = json.loads((folder / LENS_FILE).read_text(encoding="utf-8"))
            if document["format"] != FORMAT:
                raise CheckpointError(
                    f"loading the head {name}: expected format {FORMAT}, found "
                    f"{document['format']}, written by lens-cache {document['lens_cache']}; use "
                    "that version, or export the run again"
                )
            calibration = document["calibration"]
            return cls(
                name=str(name),
                config=parse_config(TrainConfig, document["training"], source=LENS_FILE),
                encoders=document["encoders"],
                fingerprints=document["fingerprints"],
                weights=load_file(folder / WEIGHTS_FILE),
                calibration=None if calibration is None else _calibration(calibration),
                scores=document["scores"],
            )
        except CheckpointError:
            raise
        except (
            KeyError,
            TypeError,
            ValueError,
            OSError,
            SafetensorError,
            ConfigError,
            ValidationError,
        ) as error:
            raise CheckpointError(
                f"loading the head {name}: {LENS_FILE} or {WEIGHTS_FILE} is damaged "
                f"({one_line(error, 160)}); export the run again"
            ) from None

    def save(self, folder: Path) -> None:
        """Write the weights and ``lens.json`` into an existing folder."""
        weights = {name: value.contiguous() for name, value in self.weights.items()}
        (folder / WEIGHTS_FILE).write_bytes(to_bytes(weights, {"format": "pt"}))
        document = {
            "format": FORMAT,
            "lens_cache": __version__,
            "training": to_tree(self.config),
            "encoders": dict(self.encoders),
            "fingerprints": dict(self.fingerprints),
            "calibration": None if self.calibration is None else to_tree(self.calibration),
            "scores": dict(self.scores),
        }
        text = json.dumps(document, indent=1, ensure_ascii=False) + "\n"
        (folder / LENS_FILE).write_text(text, encoding="utf-8")

    def extract_config(self, overrides: tuple[str, ...] = ()) -> ExtractConfig:
        """Return the settings of data and frozen models.

        Args:
            overrides: Paths on this machine, e.g. ``encoders.root=/checkpoints``.
        """
        tree = json.loads(json.dumps(self.encoders))
        if tree["encoders"].get("root") == PACKAGED:
            tree["encoders"]["root"] = str(SHAPES_MODELS)
        return override_config(ExtractConfig, tree, overrides, source=f"the head {self.name}")

    def build(self, frozen: FrozenParts) -> LensModel:
        """Return the model in evaluation mode on the CPU.

        Args:
            frozen: The frozen parts of the models that it was trained on; no decoder layers needed.

        Raises:
            CheckpointError: If the weights do not fit.
        """
        settings: ModelConfig = dataclasses.replace(self.config.model, warm_start=False)
        model = LensModel(settings, frozen)
        trained = trained_weights(model)
        frozen_weights = {k: v for k, v in model.state_dict().items() if k not in trained}
        weights = {name: value.float() for name, value in self.weights.items()}
        load_strict(
            model, {**frozen_weights, **weights}, f"loading the head {self.name}", "export it again"
        )
        return model.eval()


def trained_weights(model: LensModel) -> dict[str, Tensor]:
    """Return the weights of a model that were trained, by name."""
    return {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}


def read_calibration(run: Path) -> Calibration | None:
    """Return the calibration of a run; None if it has none.

    Raises:
        CheckpointError: If the file is damaged.
    """
    path = run / CALIBRATION_FILE
    if not path.exists():
        return None
    try:
        return _calibration(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise CheckpointError(
            f"reading {path}: {one_line(error, 120)}; run `lens-cache evaluate {run} ... "
            "--calibrate` again"
        ) from None


def _calibration(document: object) -> Calibration:
    found: Calibration = TypeAdapter(Calibration).validate_python(document)
    return found


def _find(name: str, revision: str | None) -> Path:
    """Return the local folder of an exported head, downloading it if necessary."""
    if name == SHAPES:
        return SHAPES_HEAD
    folder = Path(name).expanduser()
    if folder.is_dir():
        return folder
    if name.count("/") != 1 or name.startswith((".", "/", "~")):
        raise CheckpointError(
            f"loading the head {name}: expected a folder, a hub id such as ORG/NAME, or "
            f"{SHAPES!r}, found nothing there"
        )
    try:
        patterns = [WEIGHTS_FILE, LENS_FILE, CARD_FILE]
        return Path(snapshot_download(name, revision=revision, allow_patterns=patterns))
    except Exception as error:  # hub, HTTP and TLS libraries have exceptions of their own
        raise CheckpointError(
            f"loading the head {name}: no such folder, and the download from the Hugging Face hub "
            f"failed ({one_line(error, 160)})"
        ) from None
