"""A segment-anything ``.pth`` of any size: its sizes and its weights, and what is wrong with it."""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from lens_cache.errors import CheckpointError, one_line
from lens_cache.features.sam_architecture import SamArchitecture

PHASE_TWO = ("prompt_encoder.", "mask_decoder.")
_BROKEN_FILE = (pickle.UnpicklingError, zipfile.BadZipFile, RuntimeError, EOFError, ValueError)


def architecture(path: Path) -> SamArchitecture:
    """Read the sizes of a SAM from its checkpoint.

    Raises:
        CheckpointError: If the file is missing, corrupt or not a SAM.
    """
    return read_architecture(load_state(path), path)


def prompt_and_decoder_weights(path: Path) -> dict[str, Tensor]:
    """Read what phase 2 needs: the weights of the prompt encoder and the mask decoder.

    Raises:
        CheckpointError: If the file is missing, corrupt or not a SAM.
    """
    state = load_state(path)
    read_architecture(state, path)
    return {name: value.clone() for name, value in state.items() if name.startswith(PHASE_TWO)}


def load_state(path: Path) -> dict[str, Tensor]:
    """Read a state dict, mapped from the file where its format allows it."""
    try:
        try:
            state = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        except RuntimeError:  # saved before PyTorch 1.6: not a zip file
            state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise CheckpointError(f"reading a SAM checkpoint: {path} does not exist") from None
    except _BROKEN_FILE as error:
        raise CheckpointError(
            f"reading a SAM checkpoint: {path} is not a readable PyTorch file of plain weights "
            f"({one_line(error, 100)}); download it again"
        ) from None
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise CheckpointError(
            f"reading a SAM checkpoint: expected {path} to hold a segment-anything state dict, "
            "found something else; give a segment-anything .pth of ViT-H, L or B"
        )
    return state


def read_architecture(state: Mapping[str, Tensor], path: Path) -> SamArchitecture:
    """Read the sizes of a SAM from its state dict; ``path`` is named in errors."""
    try:
        return SamArchitecture.from_shapes({name: tuple(v.shape) for name, v in state.items()})
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from None
    except (IndexError, ValueError, ZeroDivisionError):
        raise CheckpointError(
            f"reading a SAM checkpoint: the weights of {path} have a SAM's names but not its "
            "shapes; give a segment-anything .pth of ViT-H, L or B"
        ) from None


def load_strictly(
    model: nn.Module, weights: Mapping[str, Tensor], path: Path, prefix: str = ""
) -> None:
    """Copy weights into a module; every weight must be there, and no other."""
    expected, found = set(model.state_dict()), set(weights)
    problems = [
        f"{problem} {', '.join(prefix + name for name in sorted(names)[:5])}"
        for problem, names in (("lacks", expected - found), ("unexpectedly has", found - expected))
        if names
    ]
    if problems:
        raise CheckpointError(
            f"loading SAM: {path} {' and '.join(problems)}; give a segment-anything .pth as "
            "published, or download it again"
        )
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise CheckpointError(f"loading SAM: {path} does not fit: {one_line(error)}") from None
