"""LLaVA and SAM of chosen sizes with random weights, as published and as an extraction runs them.

Both versions of a model share the memory of their weights.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from segment_anything.modeling import ImageEncoderViT
from torch import nn
from transformers import AutoModelForImageTextToText

from lens_cache.encoders.llava import LlavaEncoder
from lens_cache.encoders.llava_checkpoint import ATTENTION
from lens_cache.encoders.llava_prompt import LlavaPrompt, quiet
from lens_cache.encoders.sam import SamEncoder, build_image_encoder
from lens_cache.features.sam_architecture import SamArchitecture
from lens_cache.toy.small_llava import LlavaSize, build_processor, llava_config
from lens_cache.toy.trained_models import shapes_tokenizer

Module = TypeVar("Module", bound=nn.Module)

_DECODER = {
    "decoder_depth": 2,
    "decoder_mlp_dim": 2048,
    "mask_in_chans": 16,
    "num_multimask_outputs": 3,
    "iou_head_depth": 3,
    "iou_head_hidden_dim": 256,
}


@dataclass(frozen=True, kw_only=True)
class PairSizes:
    """Sizes of a LLaVA and a SAM.

    Attributes:
        name: Name of the pair.
        layer: The tapped layer.
        llava: Sizes of the LLaVA.
        sam: Sizes of the SAM.
    """

    name: str
    layer: int
    llava: LlavaSize
    sam: SamArchitecture


# LLaVA-1.5-7B and SAM ViT-H.
FULL_SIZE = PairSizes(
    name="LLaVA-1.5-7B and SAM ViT-H",
    layer=14,
    llava=LlavaSize(
        image_side=336,
        patch_size=14,
        tower_width=1024,
        tower_feedforward=4096,
        tower_layers=24,
        tower_heads=16,
        width=4096,
        feedforward=11008,
        layers=32,
        heads=32,
        vocabulary=32064,
    ),
    sam=SamArchitecture(
        image_size=1024,
        patch_size=16,
        embed_dim=1280,
        depth=32,
        num_heads=16,
        window_size=14,
        global_blocks=(7, 15, 23, 31),
        transformer_dim=256,
        **_DECODER,
    ),
)
# Small enough for a CPU, in the proportions of the full size: the tapped layer at the same relative
# depth, and SAM at two thirds of the cost of a forward of the whole LLaVA.
CPU_SIZE = PairSizes(
    name="a small LLaVA and SAM",
    layer=7,
    llava=LlavaSize(
        image_side=224,
        patch_size=14,
        tower_width=256,
        tower_feedforward=1024,
        tower_layers=4,
        width=512,
        feedforward=1376,
        layers=16,
        heads=8,
        vocabulary=1024,
    ),
    sam=SamArchitecture(
        image_size=384,
        patch_size=16,
        embed_dim=384,
        depth=10,
        num_heads=6,
        window_size=8,
        global_blocks=(2, 5, 7, 9),
        transformer_dim=256,
        **_DECODER,
    ),
)


# For training: as many layers and image tokens as LLaVA-1.5-7B, since a step of the head costs
# twice a layer, and a SAM that costs two thirds of a forward of the whole LLaVA.
TRAIN_CPU_SIZE = PairSizes(
    name="a narrow LLaVA and a small SAM",
    layer=14,
    llava=LlavaSize(
        image_side=336,
        patch_size=14,
        tower_width=256,
        tower_feedforward=1024,
        tower_layers=4,
        width=512,
        feedforward=1376,
        layers=32,
        heads=8,
        vocabulary=1024,
    ),
    sam=SamArchitecture(
        image_size=256,
        patch_size=16,
        embed_dim=640,
        depth=32,
        num_heads=10,
        window_size=8,
        global_blocks=(7, 15, 23, 31),
        transformer_dim=256,
        **_DECODER,
    ),
)


@dataclass(frozen=True)
class Pair:
    """A LLaVA and a SAM in two versions that share their weights.

    Attributes:
        whole: ``LlavaForConditionalGeneration`` as published.
        early: Its ``LlavaModel``, cut off at the tapped layer.
        llava: The same as an extraction runs it.
        plain_sam: The image encoder as published.
        sam: The same as an extraction runs it.
        layer: The tapped layer.
        configs: Configurations of the vision tower and of the text model.
    """

    whole: Any
    early: Any
    llava: LlavaEncoder
    plain_sam: ImageEncoderViT
    sam: SamEncoder
    layer: int
    configs: tuple[Mapping[str, Any], Mapping[str, Any]] = field(repr=False)


def build_pair(sizes: PairSizes, dtype: torch.dtype, device: str, seed: int = 0) -> Pair:
    """Build a pair with random weights, on the device."""
    torch.manual_seed(seed)
    tokenizer = shapes_tokenizer(())
    prompt = LlavaPrompt(
        build_processor(
            tokenizer, image_side=sizes.llava.image_side, patch_size=sizes.llava.patch_size
        )
    )
    config = llava_config(sizes.llava, len(tokenizer))
    with quiet(), torch.device(device):
        whole = AutoModelForImageTextToText.from_config(
            config, dtype=dtype, attn_implementation=ATTENTION
        )
        plain_sam = build_image_encoder(sizes.sam)
    whole = whole.to(device).eval().requires_grad_(False)
    plain_sam = plain_sam.to(device, dtype).eval().requires_grad_(False)
    llava = LlavaEncoder(
        _ended(whole.model, sizes.layer),
        prompt,
        layers=(sizes.layer,),
        num_layers=sizes.llava.layers,
        device=device,
    )
    return Pair(
        whole=whole,
        early=_ended(whole.model, sizes.layer),
        llava=llava,
        plain_sam=plain_sam,
        sam=SamEncoder(_around_same_weights(plain_sam), sizes.sam, dtype=dtype, device=device),
        layer=sizes.layer,
        configs=(config.vision_config.to_dict(), config.text_config.to_dict()),
    )


def _around_same_weights(model: Module) -> Module:
    return copy.deepcopy(model, {id(weight): weight for weight in model.parameters()})


def _ended(model: Any, layer: int) -> Any:
    """Return a LlavaModel cut off before decoder layer ``layer``."""
    ended = _around_same_weights(model)
    ended.language_model.layers = ended.language_model.layers[:layer]
    ended.language_model.config.num_hidden_layers = layer
    ended.language_model.norm = nn.Identity()
    return ended
