"""SAM's mask decoder, prompted by keypoints and descriptions (paper section 3.3, eq. 4).

SAM's own decoder serves one image at a time and knows no absent token. ``PromptedDecoder`` runs
SAM's modules and weights over many questions at once, with a mask over the prompt tokens.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from segment_anything.modeling import MaskDecoder, PromptEncoder, TwoWayTransformer
from torch import Tensor, nn

from lens_cache.errors import CheckpointError
from lens_cache.features.attention import attend
from lens_cache.features.sam_architecture import MASK_DECODER_HEADS, SamArchitecture


class PromptedDecoder(nn.Module):
    """From descriptions at keypoints to mask logits.

    SAM's prompt encoder is always frozen. So are the decoder's quality head and the hypernetworks
    of its multi-mask outputs, which no loss here reads.

    Args:
        architecture: Sizes of the SAM.
        weights: ``prompt_encoder.*`` and ``mask_decoder.*`` of a SAM checkpoint.
        train_mask_decoder: Also train the rest of SAM's mask decoder.

    Raises:
        CheckpointError: If a weight is missing, not known to SAM or of the wrong shape.
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
        self.prompt_encoder, self.mask_decoder = build_sam_modules(architecture)
        load_sam_weights(self, weights)
        # The position that eq. 4 gives to the global description, which has no place in the image.
        self.cls_position = nn.Parameter(torch.randn(1, 1, architecture.transformer_dim))
        self.prompt_encoder.requires_grad_(False)
        self.mask_decoder.requires_grad_(train_mask_decoder)
        self.mask_decoder.iou_prediction_head.requires_grad_(False)
        self.mask_decoder.output_hypernetworks_mlps[1:].requires_grad_(False)
        dense = self.prompt_encoder.get_dense_pe()
        self.register_buffer("image_pe", dense.flatten(2).transpose(1, 2), persistent=False)

    def forward(
        self,
        descriptions: Tensor,
        global_description: Tensor,
        keypoints: Tensor,
        token_mask: Tensor,
        image_embeddings: Tensor,
        image: Tensor,
    ) -> Tensor:
        """Answer Q questions on B images.

        Args:
            descriptions: Of the m keypoints, shape (Q, m, d_s).
            global_description: Shape (Q, d_s).
            keypoints: (x, y) in normalised coordinates of the square, shape (Q, m, 2).
            token_mask: Which of the m keypoints, and last the global description, prompt SAM;
                bool, shape (Q, m + 1). The others are as if absent; all of them may be.
            image_embeddings: SAM's, shape (B, C, h, w).
            image: Image of each question, int64, shape (Q,).

        Returns:
            SAM's single-mask logits over the square, float32, shape (Q, 4 h, 4 w).
        """
        prompts = self._prompt(descriptions, global_description, keypoints)
        decoder = self.mask_decoder
        own = torch.cat([decoder.iou_token.weight, decoder.mask_tokens.weight])
        tokens = torch.cat([own.expand(len(prompts), -1, -1), prompts], dim=1)
        present = torch.cat([token_mask.new_ones(len(own)).expand(len(prompts), -1), token_mask], 1)
        no_mask = self.prompt_encoder.no_mask_embed.weight
        embedding = image_embeddings.flatten(2).transpose(1, 2)[image] + no_mask
        states, embedding = _two_way(decoder.transformer, tokens, embedding, self.image_pe, present)
        embedding = embedding.transpose(1, 2).reshape(len(prompts), *image_embeddings.shape[1:])
        upscaled = decoder.output_upscaling(embedding)
        mask_state = states[:, 1]  # 0 is the quality token, 1 the single-mask token
        weights = decoder.output_hypernetworks_mlps[0](mask_state)
        with torch.autocast(weights.device.type, enabled=False):
            dtype = torch.promote_types(weights.dtype, torch.float32)
            return torch.einsum("qc,qchw->qhw", weights.to(dtype), upscaled.to(dtype))

    def _prompt(
        self, descriptions: Tensor, global_description: Tensor, keypoints: Tensor
    ) -> Tensor:
        """Return D + P^pos of eq. 4, keypoints first, the global one last, (Q, m + 1, d_s)."""
        positions = self.encode_positions(keypoints)
        cls_position = self.cls_position.expand(len(positions), -1, -1)
        prompts = torch.cat([descriptions, global_description[:, None]], dim=1)
        return prompts + torch.cat([positions, cls_position], dim=1)

    def encode_positions(self, keypoints: Tensor) -> Tensor:
        """Encode keypoints by SAM's position encoder, without its label embeddings.

        SAM adds half a pixel to point prompts before this step; our coordinates are continuous
        already, so nothing is added. Float32 under autocast too: a bfloat16 coordinate is four
        pixels coarse.

        Args:
            keypoints: (x, y) in normalised coordinates of the square, shape (Q, m, 2).

        Returns:
            Shape (Q, m, d_s).
        """
        with torch.autocast(keypoints.device.type, enabled=False):
            matrix = self.prompt_encoder.pe_layer.positional_encoding_gaussian_matrix
            pixels = keypoints.to(matrix.dtype) * self.image_size
            size = (self.image_size, self.image_size)
            encoded: Tensor = self.prompt_encoder.pe_layer.forward_with_coords(pixels, size)
        return encoded


def build_sam_modules(architecture: SamArchitecture) -> tuple[Any, Any]:
    """Build SAM's prompt encoder and mask decoder with random weights."""
    dim, cells = architecture.transformer_dim, architecture.embedding_size
    prompt_encoder = PromptEncoder(
        embed_dim=dim,
        image_embedding_size=(cells, cells),
        input_image_size=(architecture.image_size, architecture.image_size),
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


def load_sam_weights(module: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Load every weight of a module's ``prompt_encoder`` and ``mask_decoder``.

    Raises:
        CheckpointError: If a weight is missing, not known to SAM or of the wrong shape.
    """
    doing = "loading SAM's prompt encoder and mask decoder"
    expected = module.state_dict()
    for what, names in (
        ("missing", expected.keys() - weights.keys()),
        ("not known to SAM", weights.keys() - expected.keys()),
    ):
        if names:
            shown = ", ".join(sorted(names)[:5]) + (", ..." if len(names) > 5 else "")
            raise CheckpointError(f"{doing}: {len(names)} weights are {what}: {shown}")
    for name, weight in weights.items():
        if weight.shape != expected[name].shape:
            raise CheckpointError(
                f"{doing}: {name} should have shape {tuple(expected[name].shape)}, "
                f"found {tuple(weight.shape)}"
            )
    module.load_state_dict(dict(weights))


def _two_way(
    transformer: Any, tokens: Tensor, image: Tensor, image_pe: Tensor, present: Tensor
) -> tuple[Tensor, Tensor]:
    """Run SAM's two-way transformer with absent tokens, otherwise as ``TwoWayTransformer.forward``.

    Args:
        transformer: SAM's module.
        tokens: Shape (Q, K, C).
        image: Image embedding, shape (Q, N, C).
        image_pe: Its positions, shape (1, N, C).
        present: Which tokens may be attended to, bool, shape (Q, K).

    Returns:
        The states of the tokens, arbitrary for absent ones, and of the image.
    """
    states = tokens
    for layer in transformer.layers:
        if layer.skip_first_layer_pe:
            states = _attend(layer.self_attn, states, states, states, present)
        else:
            query = states + tokens
            states = states + _attend(layer.self_attn, query, query, states, present)
        states = layer.norm1(states)
        attended = _attend(
            layer.cross_attn_token_to_image, states + tokens, image + image_pe, image
        )
        states = layer.norm2(states + attended)
        states = layer.norm3(states + layer.mlp(states))
        attended = _attend(
            layer.cross_attn_image_to_token, image + image_pe, states + tokens, states, present
        )
        image = layer.norm4(image + attended)
    final = transformer.final_attn_token_to_image
    states = states + _attend(final, states + tokens, image + image_pe, image)
    return transformer.norm_final_attn(states), image


def _attend(
    attention: Any, query: Tensor, key: Tensor, value: Tensor, present: Tensor | None = None
) -> Tensor:
    """Run SAM's attention module, without the keys that are not present."""

    def heads(x: Tensor) -> Tensor:
        return x.reshape(*x.shape[:2], attention.num_heads, -1).transpose(1, 2)

    output = attend(
        heads(attention.q_proj(query)),
        heads(attention.k_proj(key)),
        heads(attention.v_proj(value)),
        None if present is None else present[:, None, None],
    )
    result: Tensor = attention.out_proj(output.transpose(1, 2).flatten(2))
    return result
