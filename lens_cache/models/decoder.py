"""SAM's mask decoder, prompted by keypoints and descriptions (paper section 3.3, eq. 4).

segment-anything's own forward takes one image at a time and has no absent prompts.
``PromptedDecoder`` runs its modules and weights on many questions at once, with a mask over the
prompt tokens.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lens_cache.features.attention import attend
from lens_cache.features.frozen_parts import REWRITE_FROZEN_PARTS
from lens_cache.features.sam_architecture import SamArchitecture
from lens_cache.features.sam_modules import build_prompt_encoder_and_mask_decoder
from lens_cache.features.weights import load_strict

# Output tokens of SAM's mask decoder: the quality token, the single-mask token, then the tokens of
# the multi-mask outputs.
_QUALITY_TOKEN = 0
_SINGLE_MASK_TOKEN = 1
_SINGLE_MASK = 0


@dataclass(frozen=True)
class Clicks:
    """Points of a user, which prompt SAM beside the descriptions.

    Attributes:
        points: (x, y) in normalised coordinates of the square, float32, shape (Q, n, 2).
        labels: 1 for a point inside the target, 0 for one outside, int64, shape (Q, n).
    """

    points: Tensor
    labels: Tensor


@dataclass(frozen=True)
class DecodedMasks:
    """Outputs of ``PromptedDecoder``.

    Attributes:
        low_res_logits: SAM's single-mask logits over the square, float32, shape (Q, 4 h, 4 w).
        quality: IoU of each mask as SAM's quality head estimates it, float32, shape (Q,); None in
            training mode.
    """

    low_res_logits: Tensor
    quality: Tensor | None


class PromptedDecoder(nn.Module):
    """Turns descriptions at keypoints into mask logits.

    SAM's prompt encoder is always frozen. So are the mask decoder's quality head and the
    hypernetworks of its multi-mask outputs, because no loss here reads them.

    Args:
        architecture: Sizes of the SAM.
        weights: ``prompt_encoder.*`` and ``mask_decoder.*`` of a SAM checkpoint.
        train_mask_decoder: Also train the rest of SAM's mask decoder.

    Raises:
        CheckpointError: If a weight is missing, unknown or of another shape.
    """

    # segment_anything has no types.
    prompt_encoder: Any
    mask_decoder: Any
    image_pe: Tensor

    def __init__(
        self,
        architecture: SamArchitecture,
        weights: Mapping[str, Tensor],
        *,
        train_mask_decoder: bool = False,
    ) -> None:
        super().__init__()
        self.image_size = architecture.image_size
        prompt_encoder, mask_decoder = build_prompt_encoder_and_mask_decoder(architecture)
        self.prompt_encoder = prompt_encoder
        self.mask_decoder = mask_decoder
        load_strict(
            self, weights, "loading SAM's prompt encoder and mask decoder", REWRITE_FROZEN_PARTS
        )
        # The position that eq. 4 gives to the global description, which has no place in the image.
        self.cls_position = nn.Parameter(torch.randn(1, 1, architecture.transformer_dim))
        self.prompt_encoder.requires_grad_(False)
        self.mask_decoder.requires_grad_(train_mask_decoder)
        self.mask_decoder.iou_prediction_head.requires_grad_(False)
        self.mask_decoder.output_hypernetworks_mlps[1:].requires_grad_(False)
        image_pe = self.prompt_encoder.get_dense_pe().flatten(2).transpose(1, 2)  # (1, h * w, C)
        self.register_buffer("image_pe", image_pe, persistent=False)

    def forward(
        self,
        descriptions: Tensor,
        global_description: Tensor,
        keypoints: Tensor,
        token_mask: Tensor,
        image_embeddings: Tensor,
        image: Tensor,
        clicks: Clicks | None = None,
    ) -> DecodedMasks:
        """Segment the answers to Q questions about B images.

        Args:
            descriptions: Descriptions of the m keypoints, shape (Q, m, C); C is SAM's width d_s.
            global_description: Shape (Q, C).
            keypoints: (x, y) in normalised coordinates of the square, shape (Q, m, 2).
            token_mask: Which of the m keypoints and, last, the global description prompt SAM;
                bool, shape (Q, m + 1). False makes a prompt absent; all may be absent.
            image_embeddings: SAM's image embeddings, shape (B, C, h, w).
            image: Index of each question's image, int64, shape (Q,).
            clicks: Points of a user; SAM's own point prompts, with its label embeddings.

        Returns:
            Masks and their estimated quality.
        """
        mask_decoder = self.mask_decoder
        num_questions = len(descriptions)

        # Prompt tokens: SAM's output tokens, the keypoints, the global description, the clicks.
        sparse_prompt_embeddings = self._embed_prompts(descriptions, global_description, keypoints)
        if clicks is not None:
            clicked = self._embed_clicks(clicks)
            sparse_prompt_embeddings = torch.cat([sparse_prompt_embeddings, clicked], dim=1)
            token_mask = torch.cat([token_mask, token_mask.new_ones(clicked.shape[:2])], dim=1)
        output_tokens = torch.cat([mask_decoder.iou_token.weight, mask_decoder.mask_tokens.weight])
        num_output_tokens = len(output_tokens)
        output_tokens = output_tokens.expand(num_questions, -1, -1)
        tokens = torch.cat([output_tokens, sparse_prompt_embeddings], dim=1)  # (Q, K, C)

        # Who may be attended to: every output token, and the prompts that are present.
        always = token_mask.new_ones(num_questions, num_output_tokens)
        attendable = torch.cat([always, token_mask], dim=1)  # (Q, K)

        # Image cells of each question, with SAM's dense embedding for "no mask prompt".
        dense_prompt_embedding = self.prompt_encoder.no_mask_embed.weight  # (1, C)
        src = image_embeddings.flatten(2).transpose(1, 2)[image]  # (Q, h * w, C)
        src = src + dense_prompt_embedding

        # Two-way transformer.
        hs, src = _two_way_transformer(
            mask_decoder.transformer, tokens, src, self.image_pe, attendable
        )

        # Mask = hypernetwork x upscaled embedding.
        src = src.transpose(1, 2).reshape(num_questions, *image_embeddings.shape[1:])
        upscaled_embedding = mask_decoder.output_upscaling(src)  # (Q, C / 8, 4 h, 4 w)
        hyper_in = mask_decoder.output_hypernetworks_mlps[0](hs[:, _SINGLE_MASK_TOKEN])
        with torch.autocast(hyper_in.device.type, enabled=False):
            dtype = torch.promote_types(hyper_in.dtype, torch.float32)
            low_res_logits = torch.einsum(
                "qc,qchw->qhw", hyper_in.to(dtype), upscaled_embedding.to(dtype)
            )

        # Estimated IoU of the single mask; no loss reads it.
        quality = None
        if not self.training:
            estimates = mask_decoder.iou_prediction_head(hs[:, _QUALITY_TOKEN])
            quality = estimates[:, _SINGLE_MASK].float()
        return DecodedMasks(low_res_logits, quality)

    def _embed_prompts(
        self, descriptions: Tensor, global_description: Tensor, keypoints: Tensor
    ) -> Tensor:
        """Return D + P^pos of eq. 4, keypoints first, the global one last, (Q, m + 1, C)."""
        positions = self.encode_positions(keypoints)
        cls_position = self.cls_position.expand(len(positions), -1, -1)
        prompts = torch.cat([descriptions, global_description[:, None]], dim=1)
        return prompts + torch.cat([positions, cls_position], dim=1)

    def _embed_clicks(self, clicks: Clicks) -> Tensor:
        """Return SAM's embeddings of point prompts, shape (Q, n, C)."""
        outside, inside = (self.prompt_encoder.point_embeddings[label].weight for label in (0, 1))
        labels = torch.where(clicks.labels[..., None] == 1, inside, outside)
        return self.encode_positions(clicks.points) + labels

    def encode_positions(self, keypoints: Tensor) -> Tensor:
        """Encode keypoints by SAM's position encoder, without its label embeddings.

        SAM adds half a pixel to point prompts before this step, because they are pixel indices;
        keypoints are continuous coordinates, so nothing is added. Runs in float32 under autocast
        too: a coordinate in bfloat16 has steps of four pixels.

        Args:
            keypoints: (x, y) in normalised coordinates of the square, shape (Q, m, 2).

        Returns:
            Shape (Q, m, C).
        """
        with torch.autocast(keypoints.device.type, enabled=False):
            matrix = self.prompt_encoder.pe_layer.positional_encoding_gaussian_matrix
            pixels = keypoints.to(matrix.dtype) * self.image_size
            size = (self.image_size, self.image_size)
            encoded: Tensor = self.prompt_encoder.pe_layer.forward_with_coords(pixels, size)
        return encoded


def _two_way_transformer(
    transformer: Any, point_embedding: Tensor, src: Tensor, image_pe: Tensor, attendable: Tensor
) -> tuple[Tensor, Tensor]:
    """Run SAM's two-way transformer with absent tokens, otherwise as ``TwoWayTransformer.forward``.

    Args:
        transformer: SAM's module.
        point_embedding: Output tokens and prompts, shape (Q, K, C).
        src: Image cells, shape (Q, h * w, C).
        image_pe: Positions of the image cells, shape (1, h * w, C).
        attendable: Which tokens may be attended to, bool, shape (Q, K).

    Returns:
        The states of the tokens, (Q, K, C), arbitrary for absent ones, and of the image cells,
        (Q, h * w, C).
    """
    queries, keys = point_embedding, src
    for layer in transformer.layers:
        # Self-attention of the tokens.
        if layer.skip_first_layer_pe:
            queries = _attend(layer.self_attn, queries, queries, queries, attendable)
        else:
            q = queries + point_embedding
            queries = queries + _attend(layer.self_attn, q, q, queries, attendable)
        queries = layer.norm1(queries)

        # Cross-attention, tokens to image.
        q, k = queries + point_embedding, keys + image_pe
        queries = layer.norm2(queries + _attend(layer.cross_attn_token_to_image, q, k, keys))

        # MLP.
        queries = layer.norm3(queries + layer.mlp(queries))

        # Cross-attention, image to tokens.
        q, k = queries + point_embedding, keys + image_pe
        attended = _attend(layer.cross_attn_image_to_token, k, q, queries, attendable)
        keys = layer.norm4(keys + attended)

    # Final attention, tokens to image.
    q, k = queries + point_embedding, keys + image_pe
    queries = queries + _attend(transformer.final_attn_token_to_image, q, k, keys)
    return transformer.norm_final_attn(queries), keys


def _attend(
    attention: Any, q: Tensor, k: Tensor, v: Tensor, attendable: Tensor | None = None
) -> Tensor:
    """Run SAM's attention module with a mask over the keys.

    Args:
        attention: SAM's module.
        q: Shape (Q, T, C).
        k: Shape (Q, S, C).
        v: Shape (Q, S, C).
        attendable: Which keys may be attended to, bool, shape (Q, S); all if not given.

    Returns:
        Shape (Q, T, C).
    """
    num_heads = attention.num_heads
    mask = None if attendable is None else attendable[:, None, None]  # (Q, 1, 1, S)
    output = attend(
        _split_heads(attention.q_proj(q), num_heads),
        _split_heads(attention.k_proj(k), num_heads),
        _split_heads(attention.v_proj(v), num_heads),
        mask,
    )
    output = output.transpose(1, 2).flatten(2)  # (Q, T, width of the attention)
    result: Tensor = attention.out_proj(output)
    return result


def _split_heads(x: Tensor, num_heads: int) -> Tensor:
    """Turn (Q, T, num_heads * e) into (Q, num_heads, T, e)."""
    return x.reshape(*x.shape[:2], num_heads, -1).transpose(1, 2)
