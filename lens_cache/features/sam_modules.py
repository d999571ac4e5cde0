"""SAM's prompt encoder and mask decoder: segment-anything's own modules, of any size."""

from __future__ import annotations

from typing import Any

from segment_anything.modeling import MaskDecoder, PromptEncoder, TwoWayTransformer

from lens_cache.features.sam_architecture import MASK_DECODER_HEADS, SamArchitecture


def build_prompt_encoder_and_mask_decoder(architecture: SamArchitecture) -> tuple[Any, Any]:
    """Build both modules with PyTorch's random initialisation.

    Returns:
        A ``PromptEncoder`` and a ``MaskDecoder``; typed ``Any``, because segment_anything has no
        types.
    """
    dim = architecture.transformer_dim
    cells = architecture.embedding_size
    pixels = architecture.image_size
    prompt_encoder = PromptEncoder(
        embed_dim=dim,
        image_embedding_size=(cells, cells),
        input_image_size=(pixels, pixels),
        mask_in_chans=architecture.mask_in_chans,
    )
    mask_decoder = MaskDecoder(
        transformer_dim=dim,
        transformer=TwoWayTransformer(
            depth=architecture.decoder_depth,
            embedding_dim=dim,
            num_heads=MASK_DECODER_HEADS,
            mlp_dim=architecture.decoder_mlp_dim,
        ),
        num_multimask_outputs=architecture.num_multimask_outputs,
        iou_head_depth=architecture.iou_head_depth,
        iou_head_hidden_dim=architecture.iou_head_hidden_dim,
    )
    return prompt_encoder, mask_decoder
