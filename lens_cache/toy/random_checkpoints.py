"""Tiny LLaVA and SAM checkpoints with random weights, in the real formats.

With them every command runs without a download; their output is meaningless.
"""

from __future__ import annotations

import filecmp
import math
import tempfile
from pathlib import Path

import torch
from torch import nn

from lens_cache.encoders.llava_prompt import SYSTEM, VICUNA_V1
from lens_cache.encoders.sam import build_sam
from lens_cache.errors import LensCacheError
from lens_cache.features.sam_architecture import SamArchitecture
from lens_cache.store.io.files import folder_in_one_step
from lens_cache.toy.small_llava import LlavaSize, build_llava, build_tokenizer, save_llava

LLAVA_FOLDER = "llava"
SAM_FILE = "sam.pth"

TINY_LLAVA = LlavaSize(
    image_side=96,
    patch_size=8,
    tower_width=64,
    tower_feedforward=128,
    tower_layers=3,
    width=64,
    feedforward=128,
    layers=16,
)
# Words with a token of their own; any other text becomes characters and bytes.
WORDS = (
    "What Where Which Find Show Please what is in this image the a an of and or to "
    "it that which where one object thing left right "
    "top bottom big small large red green blue yellow orange purple white black gray brown circle "
    "square triangle star person man woman dog cat car tree table chair segment show find please"
)
TINY_SAM = SamArchitecture(
    image_size=256,
    patch_size=16,
    embed_dim=64,
    depth=4,
    num_heads=2,
    window_size=4,
    global_blocks=(1, 3),
    transformer_dim=64,
    decoder_depth=2,
    decoder_mlp_dim=128,
    mask_in_chans=16,
    num_multimask_outputs=3,
    iou_head_depth=3,
    iou_head_hidden_dim=64,
)


def write_tiny_checkpoints(folder: Path, seed: int = 0) -> None:
    """Write ``folder/llava`` (Hugging Face) and ``folder/sam.pth`` (segment-anything).

    Equal seeds give equal bytes. The folder appears when it is complete; if it has the same files
    already, nothing is written.

    Args:
        folder: Must not exist, be empty, or contain the result of an earlier call.
        seed: Seed of the random weights.

    Raises:
        LensCacheError: If the folder contains something else.
    """
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        with folder_in_one_step(folder) as new:
            _write_tiny(new, seed)
        return
    with tempfile.TemporaryDirectory() as new:
        _write_tiny(Path(new), seed)
        if not _has_files(folder, Path(new)):
            raise LensCacheError(
                f"writing tiny checkpoints: {folder} already contains something else; give a new "
                "folder, or remove this one"
            )


def _write_tiny(new: Path, seed: int) -> None:
    _write(new, seed, TINY_LLAVA, TINY_SAM, "cpu")


def write_random_checkpoints(
    folder: Path, llava: LlavaSize, sam: SamArchitecture, *, seed: int = 0, device: str = "cpu"
) -> None:
    """Write checkpoints as ``write_tiny_checkpoints`` does, of any size; the folder must be new.

    Args:
        folder: Where ``llava`` and ``sam.pth`` go.
        llava: Sizes of the LLaVA.
        sam: Sizes of the SAM.
        seed: Seed of the random weights; equal seeds give equal bytes on one kind of device.
        device: Where the weights are drawn; a GPU is faster for large models.
    """
    with folder_in_one_step(folder) as new:
        _write(new, seed, llava, sam, device)


def _write(
    new: Path,
    seed: int,
    llava: LlavaSize,
    sam: SamArchitecture,
    device: str,
) -> None:
    _write_llava(new / LLAVA_FOLDER, llava, torch.Generator(device).manual_seed(seed))
    _write_sam(new / SAM_FILE, sam, torch.Generator(device).manual_seed(seed + 1))
    for file in new.rglob("*.*"):
        file.chmod(0o644)  # safetensors makes files readable only by their owner


def _has_files(folder: Path, new: Path) -> bool:
    """Return whether every file of ``new`` is in ``folder`` with the same bytes."""
    names = [str(path.relative_to(new)) for path in new.rglob("*") if path.is_file()]
    return folder.is_dir() and filecmp.cmpfiles(folder, new, names, shallow=False)[1:] == ([], [])


def _write_llava(folder: Path, size: LlavaSize, generator: torch.Generator) -> None:
    tokenizer = build_tokenizer(VICUNA_V1.format(system=SYSTEM, question=WORDS).split())
    with torch.random.fork_rng(devices=[]), generator.device:
        model = build_llava(size, tokenizer)
    _randomise(model, generator)
    save_llava(folder, size, model, tokenizer)


def _write_sam(path: Path, size: SamArchitecture, generator: torch.Generator) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(generator.initial_seed())
        model = build_sam(size).to(generator.device)
    # The mask decoder keeps PyTorch's initialisation, so that it can be trained.
    _randomise(model.image_encoder, generator)
    _randomise(model.prompt_encoder, generator)
    torch.save({name: weight.cpu() for name, weight in model.state_dict().items()}, path)


@torch.no_grad()
def _randomise(model: nn.Module, generator: torch.Generator) -> None:
    """Fill every weight so that activations keep their scale and attention is not uniform."""
    for name, weight in sorted(model.state_dict().items()):
        noise = torch.randn(weight.shape, generator=generator, device=generator.device)
        if not weight.is_floating_point():
            continue
        if "norm" in name or (weight.ndim == 1 and name.endswith("weight")):
            noise = 0.1 * noise + (1.0 if name.endswith("weight") else 0.0)
        elif weight.ndim == 1 or "rel_pos" in name or "pos_embed" in name:
            noise = 0.1 * noise
        elif "embed" not in name and "token" not in name and "gaussian" not in name:
            gain = 1.5 if any(part in name for part in ("q_proj", "k_proj", "qkv")) else 1.0
            noise = noise * gain / math.sqrt(weight[0].numel())
        weight.copy_(noise)
