"""SAM's attention without the copies of its attention matrix.

SAM adds two biases to every score: one by the row of the key, one by its column, both of them
products with the query. The published code writes the matrix out, and again for each bias: 16 heads
x 4096 x 4096 scores in each of ViT-H's global layers.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from segment_anything.modeling import ImageEncoderViT
from segment_anything.modeling.image_encoder import Attention, get_rel_pos
from torch import Tensor, nn

# Fused kernels on GPUs take head widths in steps of eight.
_STEP = 8
# Scores that are held at once in place: 4 MB in float32, but at least one head.
_SCORES = 1 << 20


class _Attention(nn.Module):
    """What both kinds take over from segment-anything's ``Attention``."""

    bias_rows: Tensor
    bias_columns: Tensor

    def __init__(self, attention: Attention, rows: int, columns: int) -> None:
        """Take over weights.

        Args:
            attention: A layer with relative positions, weights loaded.
            rows: Height of its input in tokens.
            columns: Width of its input in tokens.
        """
        super().__init__()
        self.num_heads, self.scale = attention.num_heads, attention.scale
        self.qkv, self.proj = attention.qkv, attention.proj
        for name, size, bias in (
            ("bias_rows", rows, attention.rel_pos_h),
            ("bias_columns", columns, attention.rel_pos_w),
        ):
            self.register_buffer(name, get_rel_pos(size, size, bias).detach())


class InPlaceAttention(_Attention):
    """The same bits as segment-anything's ``Attention``, computed in one place.

    On a CPU, writing new matrices costs as much as the products themselves. Heads follow one
    another in steps that a cache can hold.
    """

    def forward(self, tokens: Tensor) -> Tensor:
        """Attend among the tokens of each image or window, shape (B, rows, columns, d)."""
        batch, rows, columns, _ = tokens.shape
        heads, length = self.num_heads, rows * columns
        qkv = self.qkv(tokens).reshape(batch, length, 3, heads, -1).permute(2, 0, 3, 1, 4)
        qkv = qkv.reshape(3, batch * heads, length, -1)
        output = qkv.new_empty(qkv.shape[1:])
        step = max(1, _SCORES // length**2)
        parts = (part.split(step) for part in (*qkv, output))
        for query, key, value, attended in zip(*parts, strict=True):
            scores = (query * self.scale) @ key.transpose(1, 2)
            grid = query.reshape(-1, rows, columns, query.shape[-1])
            biased = scores.view(-1, rows, columns, rows, columns)
            biased += torch.einsum("bhwc,hkc->bhwk", grid, self.bias_rows)[..., None]
            biased += torch.einsum("bhwc,wkc->bhwk", grid, self.bias_columns)[..., None, :]
            torch.softmax(scores, dim=-1, out=scores)
            torch.bmm(scores, value, out=attended)
        output = output.view(batch, heads, rows, columns, -1).permute(0, 2, 3, 1, 4)
        projected: Tensor = self.proj(output.reshape(batch, rows, columns, -1))
        return projected


class FusedAttention(_Attention):
    """The same function by a fused kernel, which writes no matrix at all.

    A product with the one-hot code of row and column is the same sum, so that any plain attention
    kernel computes it:

        q.k + rel_h[row of k] + rel_w[column of k]  =  [q, rel_h, rel_w] . [k, 1-hot row, column]
    """

    places: Tensor

    def __init__(self, attention: Attention, rows: int, columns: int) -> None:
        """Take over weights, as ``_Attention`` does."""
        super().__init__(attention, rows, columns)
        bias = self.bias_rows
        one_hot = [torch.eye(n, dtype=bias.dtype, device=bias.device) for n in (rows, columns)]
        code = [one_hot[0].repeat_interleave(columns, dim=0), one_hot[1].repeat(rows, 1)]
        self.register_buffer("places", torch.cat(code, dim=1))

    def forward(self, tokens: Tensor) -> Tensor:
        """Attend among the tokens of each image or window, shape (B, rows, columns, d)."""
        batch, rows, columns, _ = tokens.shape
        heads, length = self.num_heads, rows * columns
        qkv = self.qkv(tokens).reshape(batch, length, 3, heads, -1).permute(2, 0, 3, 1, 4)
        query, key, value = qkv.unbind(0)
        grid = query.reshape(batch, heads, rows, columns, -1)
        by_row = torch.einsum("bnhwc,hkc->bnhwk", grid, self.bias_rows)
        by_column = torch.einsum("bnhwc,wkc->bnhwk", grid, self.bias_columns)
        query = torch.cat([query * self.scale, by_row.flatten(2, 3), by_column.flatten(2, 3)], -1)
        key = torch.cat([key, self.places.expand(batch, heads, -1, -1)], dim=-1)
        width = -(-query.shape[-1] // _STEP) * _STEP
        wide = [F.pad(part, (0, width - part.shape[-1])) for part in (query, key, value)]
        output = F.scaled_dot_product_attention(wide[0], wide[1], wide[2], scale=1.0)
        output = output[..., : value.shape[-1]].transpose(1, 2)
        projected: Tensor = self.proj(output.reshape(batch, rows, columns, -1))
        return projected


def replace_attention(model: ImageEncoderViT, *, fused: bool) -> None:
    """Replace every attention of an image encoder whose weights are loaded."""
    side = model.img_size // model.patch_embed.proj.stride[0]
    kind = FusedAttention if fused else InPlaceAttention
    for block in model.blocks:
        cells = block.window_size or side
        block.attn = kind(block.attn, cells, cells)
