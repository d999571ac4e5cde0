"""SAM as it comes: prompted by points, with its own label embeddings and its own decoder.

LENS replaces the label embeddings by descriptions; what SAM does without them is a reference line.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from lens_cache.features.frozen_parts import REWRITE_FROZEN_PARTS
from lens_cache.features.sam_architecture import SamArchitecture
from lens_cache.features.sam_modules import build_prompt_encoder_and_mask_decoder
from lens_cache.features.weights import load_strict


class PointPrompter(nn.Module):
    """From positive points to mask logits, by SAM's prompt encoder and mask decoder.

    Args:
        architecture: Sizes of the SAM.
        weights: ``prompt_encoder.*`` and ``mask_decoder.*`` of a SAM checkpoint.

    Raises:
        CheckpointError: If a weight is missing, unknown or of another shape.
    """

    # segment_anything has no types.
    prompt_encoder: Any
    mask_decoder: Any

    def __init__(self, architecture: SamArchitecture, weights: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.image_size = architecture.image_size
        prompt_encoder, mask_decoder = build_prompt_encoder_and_mask_decoder(architecture)
        self.prompt_encoder = prompt_encoder
        self.mask_decoder = mask_decoder
        load_strict(
            self, weights, "loading SAM's prompt encoder and mask decoder", REWRITE_FROZEN_PARTS
        )
        self.requires_grad_(False)

    def forward(self, image_embedding: Tensor, points: Tensor) -> Tensor:
        """Answer Q prompts on one image.

        Args:
            image_embedding: SAM's, shape (C, h, w).
            points: The n positive points of each prompt, (x, y) in normalised coordinates of the
                square, shape (Q, n, 2).

        Returns:
            SAM's single-mask logits over the square, shape (Q, 4 h, 4 w).
        """
        # SAM takes whole pixels and adds the half to their centre itself.
        pixels = points * self.image_size - 0.5
        labels = pixels.new_ones(pixels.shape[:2])
        sparse, dense = self.prompt_encoder(points=(pixels, labels), boxes=None, masks=None)
        logits: Tensor
        logits, _ = self.mask_decoder(
            image_embeddings=image_embedding[None],
            image_pe=self.prompt_encoder.get_dense_pe(),
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense,
            multimask_output=False,
        )
        return logits[:, 0]
