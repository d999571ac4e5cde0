"""The folder of a training run: settings, frozen parts, checkpoints.

A run is self-contained: evaluation and prediction do not need the store it was trained from.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Collection, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, Literal

import torch

from lens_cache.config.load import load_config
from lens_cache.config.train import TrainConfig
from lens_cache.errors import CheckpointError, StoreMismatchError
from lens_cache.features.frozen_parts import FrozenParts
from lens_cache.models.lens import LensModel
from lens_cache.store.io.files import replacing
from lens_cache.store.layout import array_name
from lens_cache.store.manifest import Manifest, require_same
from lens_cache.store.paths import MANIFEST_FILE
from lens_cache.store.store import Store

CHECKPOINTS = "checkpoints"
CONFIG_FILE = "config.yaml"
FROZEN_FOLDER = "frozen"
USED_FILE = "used_shards.json"
IMAGES_FILE = "trained_images.txt"
WEIGHTS_FILE = "weights.ckpt"  # in a checkpoint that is a folder (DeepSpeed)

Which = Literal["best", "last"]
# Raised by ``torch.load`` and ``load_state_dict`` on a broken or foreign file.
_UNREADABLE = (RuntimeError, KeyError, OSError, ValueError, EOFError, TypeError, UnpicklingError)


@dataclass(frozen=True)
class Run:
    """A finished or running training.

    Attributes:
        folder: Its folder.
        config: Its resolved settings.
        manifest: The manifest of the store it was trained from.
    """

    folder: Path
    config: TrainConfig
    manifest: Manifest

    @classmethod
    def open(cls, folder: str | Path) -> Run:
        """Open the folder of a training run.

        Raises:
            CheckpointError: If the folder is not a run.
        """
        folder = Path(folder)
        missing = [name for name in (CONFIG_FILE, MANIFEST_FILE) if not (folder / name).exists()]
        if missing:
            raise CheckpointError(
                f"opening the run {folder}: expected the folder of a training run, found no "
                f"{' and no '.join(missing)} in it; run `lens-cache train {folder} --store STORE`"
            )
        config = load_config(TrainConfig, folder / CONFIG_FILE)
        if config.model.layer is None:
            raise CheckpointError(
                f"opening the run {folder}: expected the settings of a run in {CONFIG_FILE}, found "
                "a file without model.layer; train a new run"
            )
        return cls(folder=folder, config=config, manifest=Manifest.load(folder))

    def checkpoint(self, which: Which | None = None) -> Path:
        """Return a checkpoint's path; by default the best one, or the last if there is no best.

        Raises:
            CheckpointError: If there is none.
        """
        names: tuple[Which, ...] = ("best", "last") if which is None else (which,)
        for name in names:
            path = self.folder / CHECKPOINTS / f"{name}.ckpt"
            if path.exists():
                return path
        if which == "best" and (self.folder / CHECKPOINTS / "last.ckpt").exists():
            raise CheckpointError(
                f"opening the run {self.folder}: it has no best checkpoint, because it was not "
                "validated; use the last one"
            )
        raise CheckpointError(
            f"opening the run {self.folder}: no {' or '.join(names)} checkpoint yet; run "
            f"`lens-cache train {self.folder} --store STORE --resume`"
        )

    def load_model(self, which: Which | None = None) -> LensModel:
        """Load the trained model, in evaluation mode on the CPU.

        Raises:
            CheckpointError: If the checkpoint is missing or does not fit.
        """
        path = self.checkpoint(which)
        settings = dataclasses.replace(self.config.model, warm_start=False)
        model = LensModel(settings, FrozenParts.load(self.folder / FROZEN_FOLDER))
        try:
            file = path / WEIGHTS_FILE if path.is_dir() else path
            content = torch.load(file, map_location="cpu", weights_only=True)
            state = {
                name.removeprefix("model."): value
                for name, value in content["state_dict"].items()
                if name.startswith("model.")
            }
            model.load_state_dict(state)
        except _UNREADABLE as error:
            raise CheckpointError(
                f"loading {path}: {' '.join(str(error).split())[:300]}; give a run of this version"
            ) from None
        return model.eval()

    def trained_images(self) -> frozenset[str] | None:
        """Return the ids of the images that the run may have trained on; None if unknown."""
        path = self.folder / IMAGES_FILE
        return frozenset(path.read_text().split()) if path.exists() else None

    def require_features_of(self, store: Store) -> None:
        """Refuse a store with features of another model, layer or prompt (invariant I5).

        Raises:
            StoreMismatchError: If the features differ; the message names every differing field.
        """
        require_same_features(self.manifest.fingerprints, store.manifest, store.root, self.layer)

    @property
    def layer(self) -> int:
        """The layer the head reads."""
        assert self.config.model.layer is not None
        return self.config.model.layer


def require_frozen_fits(store: Store, frozen: FrozenParts, layer: int) -> None:
    """Refuse frozen parts that do not fit the features of a store.

    Args:
        store: The store.
        frozen: The frozen parts to build the model from.
        layer: The layer the head reads.

    Raises:
        StoreMismatchError: If sizes differ; the message names each.
    """
    sam, spec = frozen.sam_architecture, store.features.spec
    tokens, width = spec(array_name(layer, "image_tokens")).image_shape
    rows, columns = frozen.grid
    wanted = {
        "hidden size": frozen.text_config["hidden_size"],
        "image tokens": rows * columns,
        "SAM embedding": [sam.transformer_dim, sam.embedding_size, sam.embedding_size],
    }
    found = {
        "hidden size": width,
        "image tokens": tokens,
        "SAM embedding": list(spec("image_embeddings").image_shape),
    }
    advice = f"Run `lens-cache verify {store.root} --repair`: {FROZEN_FOLDER}/ is of another model"
    require_same(store.root, "the frozen parts", found, wanted, advice)


def require_same_features(
    trained: Mapping[str, Mapping[str, Any]], found: Manifest, where: Path, layer: int
) -> None:
    """Refuse features that differ from those that a head was trained on (invariant I5).

    Args:
        trained: Fingerprints of the features it was trained on, by group.
        found: The manifest of the store.
        where: The store.
        layer: The layer the head reads.

    Raises:
        StoreMismatchError: If they differ; the message names every differing field.
    """
    for group, fingerprint in found.fingerprints.items():
        stored, wanted = dict(fingerprint), dict(trained[group])
        layers = stored.pop("layers", [layer])
        wanted.pop("layers", None)
        if layer not in layers:
            raise StoreMismatchError(
                f"the features of {where}: the run reads layer {layer}, the store has {layers}"
            )
        advice = "Use a store that was extracted with the run's encoders, or train a new run"
        require_same(where, f"the group {group}", stored, wanted, advice)


def begin_run(folder: Path, store: Store, frozen: FrozenParts, images: Collection[str]) -> None:
    """Write the files that make a run self-contained, each of them whole.

    They are the manifest of the store, SAM's frozen parts, and the lists of the shards in use and
    of the images that the run may train on.

    Args:
        folder: The run.
        store: The store it is trained from.
        frozen: The frozen parts of the store.
        images: Ids of the images.
    """
    folder.mkdir(parents=True, exist_ok=True)
    # A run that was killed before its first checkpoint may have left parts of another store.
    shutil.rmtree(folder / FROZEN_FOLDER, ignore_errors=True)
    dataclasses.replace(frozen, decoder_layers={}).save(folder / FROZEN_FOLDER)
    _write(folder / MANIFEST_FILE, (store.root / MANIFEST_FILE).read_bytes())
    _write(folder / IMAGES_FILE, "".join(f"{image}\n" for image in sorted(images)).encode())
    used = {
        "shards": None if store.shards is None else sorted(store.shards),
        "of": store.catalogue.num_shards,
    }
    _write(folder / USED_FILE, f"{json.dumps(used)}\n".encode())


def _write(path: Path, data: bytes) -> None:
    with replacing(path) as file:
        file.write(data)


def used_shards(folder: Path) -> frozenset[int] | None:
    """Return the shards a run uses, or None (all) if the store was complete at its start.

    Raises:
        CheckpointError: If the run's list is damaged.
    """
    path = folder / USED_FILE
    try:
        shards = json.loads(path.read_text())["shards"] if path.exists() else None
        return None if shards is None else frozenset(shards)
    except (ValueError, KeyError, TypeError):
        raise CheckpointError(
            f"opening the run {folder}: {USED_FILE} cannot be read; train a new run"
        ) from None


def autocast(config: TrainConfig, device: str) -> AbstractContextManager[object]:
    """Return a context in which inference has the precision of the training."""
    names = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}
    dtype = names.get(config.trainer.precision)
    kind = torch.device(device).type
    return torch.autocast(kind, dtype=dtype or torch.bfloat16, enabled=dtype is not None)
