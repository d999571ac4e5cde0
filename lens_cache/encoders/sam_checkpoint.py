"""Reading a segment-anything ``.pth`` of any size: its sizes and its weights."""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from lens_cache.errors import CheckpointError, one_line
from lens_cache.features.sam_architecture import SamArchitecture

# Names of the weights that training needs begin with these.
PHASE_TWO = ("prompt_encoder.", "mask_decoder.")
# The end of an error message about a file that is not a SAM.
GIVE_A_SAM = (
    "give a segment-anything .pth of ViT-H, L or B as published, or download the file again"
)
_BROKEN_FILE = (pickle.UnpicklingError, zipfile.BadZipFile, RuntimeError, EOFError, ValueError)


def architecture(path: Path) -> SamArchitecture:
    """Read the sizes of a SAM from its checkpoint.

    Raises:
        CheckpointError: If the file is missing, corrupt or not a SAM.
    """
    return read_architecture(load_state(path), path)


def prompt_and_decoder_weights(path: Path) -> dict[str, Tensor]:
    """Read the weights that training needs: those of the prompt encoder and the mask decoder.

    Raises:
        CheckpointError: If the file is missing, corrupt or not a SAM.
    """
    state = load_state(path)
    read_architecture(state, path)
    return {name: value.clone() for name, value in state.items() if name.startswith(PHASE_TWO)}


def load_state(path: Path) -> dict[str, Tensor]:
    """Read a state dict; it is memory-mapped if the file format allows it.

    Runs no code from the file (``weights_only``).

    Raises:
        CheckpointError: If the file is missing, corrupt or not a state dict.
    """
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
            f"({one_line(error, 100)}); download the file again"
        ) from None
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise CheckpointError(
            f"reading a SAM checkpoint: expected a segment-anything state dict in {path}, found "
            f"something else; {GIVE_A_SAM}"
        )
    return state


def read_architecture(state: Mapping[str, Tensor], path: Path) -> SamArchitecture:
    """Read the sizes of a SAM from its state dict.

    Args:
        state: The state dict.
        path: Its file, for error messages.

    Raises:
        CheckpointError: If it is not a SAM.
    """
    try:
        return SamArchitecture.from_shapes({name: tuple(v.shape) for name, v in state.items()})
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from None
    except (IndexError, ValueError, ZeroDivisionError):
        raise CheckpointError(
            f"reading a SAM checkpoint: the weights of {path} have a SAM's names but not its "
            f"shapes; {GIVE_A_SAM}"
        ) from None
