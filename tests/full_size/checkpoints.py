"""LLaVA-1.5-7B and SAM ViT-H in their real on-disk formats and sizes, with random weights.

Weights that an extraction must not read lie in files with a right header and a hole for data: they
take no room on the disk, and whoever reads them gets zeros and pays their memory.
"""

import json
import struct
from math import prod
from pathlib import Path

import torch
from safetensors.torch import save
from segment_anything import build_sam_vit_h
from transformers import (
    AutoProcessor,
    CLIPImageProcessor,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
)

from lens_cache.toy.random_checkpoints import write_tiny_checkpoints

# Layers 14 and 15 start the head; what comes behind them is never needed.
LAST_NEEDED_LAYER = 15


def write_full_size(folder: Path) -> None:
    """Write ``llava/`` (6.9 GB on the disk, 14.1 GB long) and ``sam.pth`` (1.3 GB)."""
    write_tiny_checkpoints(folder / "tiny")
    write_llava(folder / "llava", folder / "tiny" / "llava")
    write_sam(folder / "sam.pth")


def write_llava(folder: Path, tiny: Path) -> None:
    folder.mkdir()
    tokenizer = AutoProcessor.from_pretrained(tiny, backend="pil").tokenizer
    LlavaProcessor(
        image_processor=CLIPImageProcessor(
            size={"shortest_edge": 336}, crop_size={"height": 336, "width": 336}
        ),
        tokenizer=tokenizer,
        patch_size=14,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        image_token="<image>",
    ).save_pretrained(folder)
    config = LlavaConfig(image_token_index=tokenizer.convert_tokens_to_ids("<image>"))
    config.architectures = ["LlavaForConditionalGeneration"]
    config.save_pretrained(folder)
    with torch.device("meta"):
        shapes = {
            name: tuple(weight.shape)
            for name, weight in LlavaForConditionalGeneration(config).state_dict().items()
        }
    files: dict[str, dict[str, tuple[int, ...]]] = {}
    for name, shape in shapes.items():
        files.setdefault(f"{_part(name)}.safetensors", {})[name] = shape
    noise = torch.randn(2**27, generator=torch.Generator().manual_seed(0)).bfloat16()
    for file, weights in files.items():
        write = _write_weights if _needed(file) else _write_hole
        write(folder / file, weights, noise)
    index = {name: file for file, weights in files.items() for name in weights}
    (folder / "model.safetensors.index.json").write_text(
        json.dumps({"metadata": {}, "weight_map": index})
    )


def write_sam(path: Path) -> None:
    torch.manual_seed(0)
    model = build_sam_vit_h()
    for name, weight in model.state_dict().items():
        if "pos" in name and weight.is_floating_point():
            weight.normal_(std=0.02)
    torch.save({name: w.bfloat16() for name, w in model.state_dict().items()}, path)


def _part(name: str) -> str:
    """Return the file of a weight: one per decoder layer, one for the rest, one for the head."""
    if ".layers." in name and "vision" not in name:
        return f"layer_{int(name.split('.layers.')[1].split('.')[0]):02d}"
    return "unneeded" if "lm_head" in name or "language_model.norm" in name else "shared"


def _needed(file: str) -> bool:
    part = file.removesuffix(".safetensors")
    return part == "shared" or (
        part != "unneeded" and int(part.removeprefix("layer_")) <= LAST_NEEDED_LAYER
    )


def _write_weights(path: Path, shapes: dict[str, tuple[int, ...]], noise: torch.Tensor) -> None:
    weights = {}
    for name, shape in shapes.items():
        if len(shape) == 1:
            # Norms pass on what they get, biases add nothing.
            weights[name] = torch.full(shape, float(not name.endswith("bias")), dtype=noise.dtype)
        else:
            scale = prod(shape[1:]) ** -0.5
            size = prod(shape)
            flat = noise.repeat(-(-size // len(noise)))[:size]
            weights[name] = (flat * scale).reshape(shape)
    path.write_bytes(save(weights))


def _write_hole(path: Path, shapes: dict[str, tuple[int, ...]], noise: torch.Tensor) -> None:
    header, end = {}, 0
    for name, shape in shapes.items():
        start, end = end, end + 2 * prod(shape)
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + end)
