"""Tiny LLaVA and SAM checkpoints with random weights, in the real formats.

They make every command runnable without a download; what they say about an image means nothing.
"""

from __future__ import annotations

import filecmp
import math
import tempfile
from pathlib import Path

import torch
from torch import nn
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
from lens_cache.encoders.sam import build_sam
from lens_cache.errors import LensCacheError
from lens_cache.sam_architecture import SamArchitecture

LLAVA_FOLDER = "llava"
SAM_FILE = "sam.pth"

IMAGE_SIDE, PATCH_SIZE, WIDTH, LAYERS = 96, 8, 64, 16
SPECIAL_TOKENS = ("<unk>", "<s>", "</s>", "<image>", "<pad>")
# Words that get a token of their own; any other text falls back to characters and bytes.
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

    The same seed gives the same bytes. The folder appears as a whole or not at all; if it is there
    with the same files, nothing happens.

    Args:
        folder: Must not exist, be empty, or hold what an earlier call wrote.
        seed: Seeds the random weights.

    Raises:
        LensCacheError: If the folder holds something else.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as temporary:
        new = Path(temporary) / folder.name
        new.mkdir()
        with quiet():
            _write_llava(new / LLAVA_FOLDER, torch.Generator().manual_seed(seed))
        _write_sam(new / SAM_FILE, torch.Generator().manual_seed(seed + 1))
        for file in new.rglob("*.*"):
            file.chmod(0o644)  # safetensors writes for the owner only
        if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
            new.replace(folder)
        elif not _holds(folder, new):
            raise LensCacheError(
                f"writing tiny checkpoints: {folder} already holds something else; give a new "
                "folder, or remove this one"
            )


def _holds(folder: Path, new: Path) -> bool:
    """Return whether every file of ``new`` is in ``folder`` with the same bytes."""
    names = [str(path.relative_to(new)) for path in new.rglob("*") if path.is_file()]
    return folder.is_dir() and filecmp.cmpfiles(folder, new, names, shallow=False)[1:] == ([], [])


def _write_llava(folder: Path, generator: torch.Generator) -> None:
    tokenizer = _tokenizer()
    with torch.random.fork_rng(devices=[]):
        model = LlavaForConditionalGeneration(_llava_config(tokenizer))
    _randomise(model, generator)
    model.generation_config = GenerationConfig(
        bos_token_id=1, eos_token_id=2, pad_token_id=4, do_sample=False
    )
    model.half().save_pretrained(folder)
    LlavaProcessor(
        image_processor=CLIPImageProcessorPil(
            size={"shortest_edge": IMAGE_SIDE},
            crop_size={"height": IMAGE_SIDE, "width": IMAGE_SIDE},
        ),
        tokenizer=tokenizer,
        patch_size=PATCH_SIZE,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
    ).save_pretrained(folder)


def _llava_config(tokenizer: LlamaTokenizer) -> LlavaConfig:
    return LlavaConfig(
        vision_config=CLIPVisionConfig(
            image_size=IMAGE_SIDE,
            patch_size=PATCH_SIZE,
            hidden_size=WIDTH,
            intermediate_size=2 * WIDTH,
            num_hidden_layers=3,
            num_attention_heads=4,
        ),
        text_config=LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=WIDTH,
            intermediate_size=2 * WIDTH,
            num_hidden_layers=LAYERS,
            num_attention_heads=4,
            max_position_embeddings=4096,
            bos_token_id=1,
            eos_token_id=2,
            pad_token_id=4,
        ),
        image_seq_length=(IMAGE_SIDE // PATCH_SIZE) ** 2,
        image_token_index=SPECIAL_TOKENS.index("<image>"),
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
    )


def _tokenizer() -> LlamaTokenizer:
    """Build Llama's kind of tokenizer: BPE over characters, bytes for all other text."""
    tokens = [*SPECIAL_TOKENS, *(f"<0x{byte:02X}>" for byte in range(256)), "\u2581"]
    tokens += [chr(code) for code in range(33, 127)]
    words = VICUNA_V1.format(system=SYSTEM, question=WORDS).split()
    # A word behind a space, and the first word of a question, which stands behind a line break.
    pieces = ["\u2581" + word for word in words] + [word for word in words if word.istitle()]
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


def _write_sam(path: Path, generator: torch.Generator) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(generator.initial_seed())
        model = build_sam(TINY_SAM)
    # The mask decoder keeps PyTorch's initialisation: a training may go on from it.
    _randomise(model.image_encoder, generator)
    _randomise(model.prompt_encoder, generator)
    torch.save(model.state_dict(), path)


@torch.no_grad()
def _randomise(model: nn.Module, generator: torch.Generator) -> None:
    """Fill every weight so that signals keep their size and attention is not uniform."""
    for name, weight in sorted(model.state_dict().items()):
        noise = torch.randn(weight.shape, generator=generator)
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
