"""The two tiny models of the world of shapes: sizes, tokenizer and image processing.

Except for their sizes they equal LLaVA-1.5 and SAM; ``pipelines.pretraining`` trains them.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import LlamaTokenizer, LlavaProcessor
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from lens_cache.encoders.llava_prompt import SYSTEM, VICUNA_V1
from lens_cache.features.sam_architecture import SamArchitecture
from lens_cache.toy.small_llava import LlavaSize, build_processor, build_tokenizer

SHAPES_LLAVA = LlavaSize(
    image_side=96,
    patch_size=8,
    tower_width=128,
    tower_feedforward=512,
    tower_layers=4,
    # The last layer of the tower is trained; LLaVA-1.5 reads the layer before the last.
    tower_feature_layer=-1,
    width=128,
    feedforward=352,
    layers=6,
)
SHAPES_SAM = SamArchitecture(
    image_size=128,
    patch_size=8,
    embed_dim=128,
    depth=4,
    num_heads=4,
    window_size=0,
    global_blocks=(0, 1, 2, 3),
    transformer_dim=128,
    decoder_depth=2,
    decoder_mlp_dim=512,
    mask_in_chans=16,
    num_multimask_outputs=3,
    iou_head_depth=3,
    iou_head_hidden_dim=128,
)


def shapes_tokenizer(words: Iterable[str]) -> LlamaTokenizer:
    """Build a tokenizer with one token for each given word and each word of LLaVA's template."""
    return build_tokenizer([*VICUNA_V1.format(system=SYSTEM, question="").split(), *words])


def shapes_processor(tokenizer: LlamaTokenizer) -> LlavaProcessor:
    """Build the tiny LLaVA's processor."""
    return build_processor(
        tokenizer, image_side=SHAPES_LLAVA.image_side, patch_size=SHAPES_LLAVA.patch_size
    )


def to_pixels(squares: NDArray[np.uint8]) -> Tensor:
    """Normalise images of LLaVA's input size as its processor does.

    Args:
        squares: RGB, uint8, shape (B, h, w, 3).

    Returns:
        Normalised pixels, float32, shape (B, 3, h, w).
    """
    values = torch.from_numpy(np.array(squares)).permute(0, 3, 1, 2).float() / 255
    usual = CLIPImageProcessorPil()
    mean, std = (torch.tensor(list(v)).view(3, 1, 1) for v in (usual.image_mean, usual.image_std))
    return (values - mean) / std
