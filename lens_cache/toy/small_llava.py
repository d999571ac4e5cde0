"""Build an untrained LLaVA of any size: model, tokenizer over given words, and processor."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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

from lens_cache.encoders.llava_prompt import quiet

SPECIAL_TOKENS = ("<unk>", "<s>", "</s>", "<image>", "<pad>")
_BOS, _EOS, _PAD = (SPECIAL_TOKENS.index(token) for token in ("<s>", "</s>", "<pad>"))


@dataclass(frozen=True, kw_only=True)
class LlavaSize:
    """The sizes of a LLaVA-1.5.

    Attributes:
        image_side: Side of the tower's input in pixels.
        patch_size: Side of a patch in pixels.
        tower_width: Width of the CLIP tower.
        tower_feedforward: Hidden width of its feed-forward blocks.
        tower_layers: Number of its layers.
        tower_heads: Number of its attention heads.
        tower_feature_layer: The layer that the projector reads; -2 in LLaVA-1.5.
        width: Width of the language model.
        feedforward: Hidden width of its feed-forward blocks.
        layers: Number of its layers.
        heads: Number of its attention heads.
        vocabulary: Number of its tokens; that of the tokenizer by default.
    """

    image_side: int
    patch_size: int
    tower_width: int
    tower_feedforward: int
    tower_layers: int
    tower_heads: int = 4
    tower_feature_layer: int = -2
    width: int
    feedforward: int
    layers: int
    heads: int = 4
    vocabulary: int | None = None


def build_tokenizer(words: Iterable[str]) -> LlamaTokenizer:
    """Build a Llama tokenizer: BPE over characters, with bytes for all other text.

    Args:
        words: Each gets one token for the word after a space. Capitalised words get another one
            without a space, because the first word of a question follows a line break.
    """
    tokens = [*SPECIAL_TOKENS, *(f"<0x{byte:02X}>" for byte in range(256)), "\u2581"]
    tokens += [chr(code) for code in range(33, 127)]
    known = dict.fromkeys(words)
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


def build_processor(
    tokenizer: LlamaTokenizer, *, image_side: int, patch_size: int
) -> LlavaProcessor:
    """Build LLaVA's processor for a tower's image side and patch size, in pixels."""
    return LlavaProcessor(
        image_processor=CLIPImageProcessorPil(
            size={"shortest_edge": image_side},
            crop_size={"height": image_side, "width": image_side},
        ),
        tokenizer=tokenizer,
        patch_size=patch_size,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
    )


def build_llava(
    size: LlavaSize, tokenizer: LlamaTokenizer, attention: str | None = None
) -> LlavaForConditionalGeneration:
    """Build the model; weights are drawn from PyTorch's global random generator.

    Args:
        size: The sizes.
        tokenizer: Result of ``build_tokenizer``.
        attention: A registered attention implementation; Hugging Face's default if None.
    """
    config = llava_config(size, len(tokenizer))
    if attention is not None:
        config._attn_implementation = attention
    model = LlavaForConditionalGeneration(config)
    model.generation_config = GenerationConfig(
        bos_token_id=_BOS, eos_token_id=_EOS, pad_token_id=_PAD, do_sample=False
    )
    return model


def llava_config(size: LlavaSize, num_tokens: int) -> Any:
    """Return the ``LlavaConfig`` of the given sizes; ``num_tokens`` is that of the tokenizer."""
    return LlavaConfig(
        vision_config=CLIPVisionConfig(
            image_size=size.image_side,
            patch_size=size.patch_size,
            hidden_size=size.tower_width,
            intermediate_size=size.tower_feedforward,
            num_hidden_layers=size.tower_layers,
            num_attention_heads=size.tower_heads,
        ),
        text_config=LlamaConfig(
            vocab_size=size.vocabulary or num_tokens,
            hidden_size=size.width,
            intermediate_size=size.feedforward,
            num_hidden_layers=size.layers,
            num_attention_heads=size.heads,
            max_position_embeddings=4096,
            bos_token_id=_BOS,
            eos_token_id=_EOS,
            pad_token_id=_PAD,
        ),
        image_seq_length=(size.image_side // size.patch_size) ** 2,
        image_token_index=SPECIAL_TOKENS.index("<image>"),
        vision_feature_layer=size.tower_feature_layer,
        vision_feature_select_strategy="default",
    )


def save_llava(
    folder: Path,
    size: LlavaSize,
    model: LlavaForConditionalGeneration,
    tokenizer: LlamaTokenizer,
) -> None:
    """Write a Hugging Face LLaVA folder with weights in float16."""
    with quiet():
        copy.deepcopy(model).half().save_pretrained(folder)
    processor = build_processor(tokenizer, image_side=size.image_side, patch_size=size.patch_size)
    processor.save_pretrained(folder)
