"""The descriptor model: whether a keypoint is part of the answer (paper section 3.2, S1.3)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lens_cache.errors import ConfigError

# Not in the paper; both as in the released code.
FEEDFORWARD_DIM = 2048
DROPOUT = 0.1


class DescriptorModel(nn.Module):
    """Describes each keypoint, and the answer as a whole, in the width of SAM's prompts.

    Cross-attention reads the features around a keypoint with f_s^2 as its query. Self-attention
    relates the local descriptions and f_s^2, which becomes the global description. Both kinds of
    description share one projection.

    Args:
        hidden_size: Width d of the MLLM.
        num_heads: Attention heads of both attentions; must divide ``hidden_size``.
        intermediate_size: Hidden width of the feed-forward block after the cross-attention.
        prompt_dim: Width d_s of SAM's prompts.
        dropout: Dropout of the self-attention layer; the other layers have none.

    Raises:
        ConfigError: If ``num_heads`` does not divide ``hidden_size``.
    """

    def __init__(
        self,
        *,
        hidden_size: int,
        num_heads: int,
        intermediate_size: int,
        prompt_dim: int,
        dropout: float = DROPOUT,
    ) -> None:
        super().__init__()
        if hidden_size % num_heads != 0:
            raise ConfigError(
                "building the descriptor: model.num_descriptor_heads must divide the MLLM's width "
                f"{hidden_size}, got {num_heads}"
            )
        self.cross_attention = nn.MultiheadAttention(hidden_size, num_heads, batch_first=True)
        self.cross_norm = nn.LayerNorm(hidden_size)
        self.feedforward = nn.Sequential(
            nn.Linear(hidden_size, intermediate_size),
            nn.GELU(),
            nn.Linear(intermediate_size, hidden_size),
        )
        self.feedforward_norm = nn.LayerNorm(hidden_size)
        self.self_attention = nn.TransformerEncoderLayer(
            hidden_size,
            num_heads,
            dim_feedforward=FEEDFORWARD_DIM,
            dropout=dropout,
            batch_first=True,
        )
        self.projection = nn.Sequential(
            nn.Linear(hidden_size, hidden_size), nn.ReLU(), nn.Linear(hidden_size, prompt_dim)
        )

    def forward(
        self, start_of_answer: Tensor, neighbourhoods: Tensor, keypoint_mask: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Describe the m keypoints of each of Q questions (eq. 3).

        Args:
            start_of_answer: f_s^2, shape (Q, d).
            neighbourhoods: Features around each keypoint, shape (Q, m, p * p, d).
            keypoint_mask: Which keypoints exist, bool, shape (Q, m). The others have no influence
                on the results of those that exist.

        Returns:
            The descriptions of the keypoints, shape (Q, m, d_s), arbitrary where there is no
            keypoint, and the global description, shape (Q, d_s).
        """
        num_questions, num_keypoints = keypoint_mask.shape

        # Cross-attention: f_s^2 reads the neighbourhood of each keypoint.
        query = start_of_answer[:, None, None].expand(-1, num_keypoints, -1, -1).flatten(0, 1)
        around = neighbourhoods.flatten(0, 1).to(query.dtype)  # (Q * m, p * p, d)
        attended, _ = self.cross_attention(query, around, around, need_weights=False)
        local = self.cross_norm(query + attended)  # (Q * m, 1, d)
        local = self.feedforward_norm(local + self.feedforward(local))
        local = local.view(num_questions, num_keypoints, -1)  # (Q, m, d)

        # Self-attention: local descriptions and f_s^2 together, without absent keypoints.
        together = torch.cat([local, start_of_answer[:, None].to(local.dtype)], dim=1)
        is_absent = torch.cat([~keypoint_mask, torch.zeros_like(keypoint_mask[:, :1])], dim=1)
        related = self.self_attention(together, src_key_padding_mask=is_absent)  # (Q, m + 1, d)

        # Projection to the width of SAM's prompts.
        descriptions = self.projection(related)  # (Q, m + 1, d_s)
        return descriptions[:, :-1], descriptions[:, -1]
