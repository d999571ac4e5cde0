"""SAM's attention without copies of its attention matrix.

SAM adds two biases to every score: one for the row of the key and one for its column, both of them
products with the query. The published code writes the whole matrix once, and again for each bias:
16 heads x 4096 x 4096 scores in each global layer of ViT-H.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from segment_anything.modeling import ImageEncoderViT
from segment_anything.modeling.image_encoder import Attention, get_rel_pos
from torch import Tensor, nn

from lens_cache.features.sizes import round_up

# Fused GPU kernels need head widths that are multiples of eight.
_STEP = 8
# Scores that ``InPlaceAttention`` holds at a time, 4 MB in float32; at least those of one head.
_SCORES = 1 << 20


class _Attention(nn.Module):
    """The weights of segment-anything's ``Attention``, with the biases of every offset."""

    bias_rows: Tensor
    bias_columns: Tensor

    def __init__(self, attention: Attention, rows: int, columns: int) -> None:
        """Take the weights of a layer.

        Args:
            attention: A layer with relative positions, weights loaded.
            rows: Height of its input in tokens.
            columns: Width of its input in tokens.
        """
        super().__init__()
        self.num_heads = attention.num_heads
        self.scale = attention.scale
        self.qkv = attention.qkv
        self.proj = attention.proj
        bias_rows = get_rel_pos(rows, rows, attention.rel_pos_h)  # (rows, rows, e)
        bias_columns = get_rel_pos(columns, columns, attention.rel_pos_w)  # (columns, columns, e)
        self.register_buffer("bias_rows", bias_rows.detach())
        self.register_buffer("bias_columns", bias_columns.detach())


class InPlaceAttention(_Attention):
    """Bit-identical to segment-anything's ``Attention``, computed in place.

    On a CPU, writing a new matrix costs as much as a matrix product. Heads are processed in groups
    that fit in the cache.
    """

    def forward(self, tokens: Tensor) -> Tensor:
        """Attend among the tokens of each image or window, shape (B, rows, columns, d)."""
        batch, rows, columns, _ = tokens.shape
        heads, length = self.num_heads, rows * columns
        qkv = self.qkv(tokens).reshape(batch, length, 3, heads, -1).permute(2, 0, 3, 1, 4)
        qkv = qkv.reshape(3, batch * heads, length, -1)  # (3, B * heads, length, e)
        output = qkv.new_empty(qkv.shape[1:])
        step = max(1, _SCORES // length**2)
        groups = [part.split(step) for part in (*qkv, output)]
        for query, key, value, attended in zip(*groups, strict=True):
            # Scores with both biases, all in one matrix.
            scores = (query * self.scale) @ key.transpose(
                1, 2
            )  # (heads of the group, length, length)
            grid = query.reshape(-1, rows, columns, query.shape[-1])
            biased = scores.view(-1, rows, columns, rows, columns)
            biased += torch.einsum("bhwc,hkc->bhwk", grid, self.bias_rows)[..., None]
            biased += torch.einsum("bhwc,wkc->bhwk", grid, self.bias_columns)[..., None, :]
            # Softmax and product with the values, in place.
            torch.softmax(scores, dim=-1, out=scores)
            torch.bmm(scores, value, out=attended)
        output = output.view(batch, heads, rows, columns, -1).permute(0, 2, 3, 1, 4)
        projected: Tensor = self.proj(output.reshape(batch, rows, columns, -1))
        return projected


class FusedAttention(_Attention):
    """The same function by a fused kernel, which does not write the attention matrix.

    The biases become part of the dot product, with one-hot codes of row and column as further
    elements of the key. Any plain attention kernel then computes the biased scores:

        q.k + rel_h[row of k] + rel_w[column of k]  =  [q, rel_h, rel_w] . [k, 1-hot row, column]
    """

    one_hot: Tensor

    def __init__(self, attention: Attention, rows: int, columns: int) -> None:
        """Take the weights of a layer; see ``_Attention``."""
        super().__init__(attention, rows, columns)
        rows_eye = torch.eye(rows).to(self.bias_rows)
        columns_eye = torch.eye(columns).to(self.bias_rows)
        row_code = rows_eye.repeat_interleave(columns, dim=0)  # (length, rows)
        column_code = columns_eye.repeat(rows, 1)  # (length, columns)
        self.register_buffer("one_hot", torch.cat([row_code, column_code], dim=1))

    def forward(self, tokens: Tensor) -> Tensor:
        """Attend among the tokens of each image or window, shape (B, rows, columns, d)."""
        batch, rows, columns, _ = tokens.shape
        heads, length = self.num_heads, rows * columns
        qkv = self.qkv(tokens).reshape(batch, length, 3, heads, -1).permute(2, 0, 3, 1, 4)
        query, key, value = qkv.unbind(0)  # (B, heads, length, e)

        # Biases of every query: one for each row, one for each column.
        grid = query.reshape(batch, heads, rows, columns, -1)
        by_row = torch.einsum("bnhwc,hkc->bnhwk", grid, self.bias_rows)
        by_column = torch.einsum("bnhwc,wkc->bnhwk", grid, self.bias_columns)

        # Extended queries and keys, (B, heads, length, e + rows + columns).
        query = torch.cat([query * self.scale, by_row.flatten(2, 3), by_column.flatten(2, 3)], -1)
        key = torch.cat([key, self.one_hot.expand(batch, heads, -1, -1)], dim=-1)

        # Attention at a width that fused kernels take.
        width = round_up(query.shape[-1], _STEP)
        output = F.scaled_dot_product_attention(
            _pad(query, width), _pad(key, width), _pad(value, width), scale=1.0
        )
        output = output[..., : value.shape[-1]].transpose(1, 2)  # (B, length, heads, e)
        projected: Tensor = self.proj(output.reshape(batch, rows, columns, -1))
        return projected


def _pad(x: Tensor, width: int) -> Tensor:
    """Append zeros to the last axis."""
    return F.pad(x, (0, width - x.shape[-1]))


def replace_attention(model: ImageEncoderViT, *, fused: bool) -> None:
    """Replace every attention layer of an image encoder; its weights must be loaded."""
    side = model.img_size // model.patch_embed.proj.stride[0]
    kind = FusedAttention if fused else InPlaceAttention
    for block in model.blocks:
        cells = block.window_size or side
        block.attn = kind(block.attn, cells, cells)
