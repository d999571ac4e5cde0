"""The two tiny models of the shapes world, untrained: sizes, tokenizer and processor.

They are what LLaVA-1.5 and SAM are but for their sizes; ``pipelines.pretraining`` trains them.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import (
    CLIPVisionConfig,
    GenerationConfig,
    LlamaConfig,
    LlamaTokenizer,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
)
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from lens_cache.encoders.prompt import SYSTEM, VICUNA_V1, quiet
from lens_cache.sam_architecture import SamArchitecture

IMAGE_SIDE, PATCH_SIZE = 96, 8
TOWER_WIDTH, TOWER_LAYERS = 128, 4
WIDTH, LAYERS = 128, 6
SPECIAL_TOKENS = ("<unk>", "<s>", "</s>", "<image>", "<pad>")
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


def build_tokenizer(words: Iterable[str]) -> LlamaTokenizer:
    """Build Llama's kind of tokenizer: BPE over characters, bytes for all other text.

    Args:
        words: They get one token each, behind a space and at the start of a question.
    """
    tokens = [*SPECIAL_TOKENS, *(f"<0x{byte:02X}>" for byte in range(256)), "\u2581"]
    tokens += [chr(code) for code in range(33, 127)]
    template = VICUNA_V1.format(system=SYSTEM, question="").split()
    known = dict.fromkeys([*template, *words])
    # A word behind a space, and the first word of a question, which stands behind a line break.
    pieces = ["\u2581" + word for word in known] + [word for word in known if word.istitle()]
    merges = dict.fromkeys((word[:n], word[n]) for word in pieces for n in range(1, len(word)))
    vocabulary = dict.fromkeys([*tokens, *(a + b for a, b in merges)])
    return LlamaTokenizer(
        vocab={token: index for index, token in enumerate(vocabulary)},
        merges=list(merges),
        add_bos_token=True,
        pad_token="<pad>",
        extra_special_tokens={"image_token": "<image>"},
        model_max_length=4096,
    )


def build_processor(tokenizer: LlamaTokenizer) -> LlavaProcessor:
    """Build LLaVA's processor for the tiny tower."""
    return LlavaProcessor(
        image_processor=CLIPImageProcessorPil(
            size={"shortest_edge": IMAGE_SIDE},
            crop_size={"height": IMAGE_SIDE, "width": IMAGE_SIDE},
        ),
        tokenizer=tokenizer,
        patch_size=PATCH_SIZE,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
    )


def build_llava(tokenizer: LlamaTokenizer) -> LlavaForConditionalGeneration:
    """Build the tiny LLaVA with PyTorch's present random generator."""
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(
            image_size=IMAGE_SIDE,
            patch_size=PATCH_SIZE,
            hidden_size=TOWER_WIDTH,
            intermediate_size=4 * TOWER_WIDTH,
            num_hidden_layers=TOWER_LAYERS,
            num_attention_heads=4,
        ),
        text_config=LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=WIDTH,
            intermediate_size=352,
            num_hidden_layers=LAYERS,
            num_attention_heads=4,
            max_position_embeddings=4096,
            bos_token_id=1,
            eos_token_id=2,
            pad_token_id=4,
        ),
        image_seq_length=(IMAGE_SIDE // PATCH_SIZE) ** 2,
        image_token_index=SPECIAL_TOKENS.index("<image>"),
        # The tower is trained for its last layer; LLaVA-1.5 takes the one before it.
        vision_feature_layer=-1,
        vision_feature_select_strategy="default",
    )
    config._attn_implementation = "eager"  # the fastest to train on CPUs
    model = LlavaForConditionalGeneration(config)
    model.generation_config = GenerationConfig(
        bos_token_id=1, eos_token_id=2, pad_token_id=4, do_sample=False
    )
    return model


def save_llava(
    folder: Path, model: LlavaForConditionalGeneration, tokenizer: LlamaTokenizer
) -> None:
    """Write a Hugging Face LLaVA folder, weights in float16."""
    with quiet():
        copy.deepcopy(model).half().save_pretrained(folder)
    build_processor(tokenizer).save_pretrained(folder)


def to_pixels(squares: NDArray[np.uint8]) -> Tensor:
    """Return pictures of LLaVA's own size as its processor would, float32, shape (B, 3, h, w)."""
    values = torch.from_numpy(np.array(squares)).permute(0, 3, 1, 2).float() / 255
    usual = CLIPImageProcessorPil()
    mean, std = (torch.tensor(list(v)).view(3, 1, 1) for v in (usual.image_mean, usual.image_std))
    return (values - mean) / std
