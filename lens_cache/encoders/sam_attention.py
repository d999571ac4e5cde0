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
    """The weights of segment-anything's ``Attention``, but for its relative positions."""

    def __init__(self, attention: Attention) -> None:
        """Take the weights of a layer."""
        super().__init__()
        self.num_heads = attention.num_heads
        self.scale = attention.scale
        self.qkv = attention.qkv
        self.proj = attention.proj


def _biases(attention: Attention, rows: int, columns: int) -> tuple[Tensor, Tensor]:
    """Return the embeddings of offsets by (query, key): (rows, rows, e), (columns, columns, e).

    Args:
        attention: A layer with relative positions, weights loaded.
        rows: Height of its input in tokens.
        columns: Width of its input in tokens.
    """
    by_row = get_rel_pos(rows, rows, attention.rel_pos_h).detach()
    by_column = get_rel_pos(columns, columns, attention.rel_pos_w).detach()
    return by_row, by_column


class InPlaceAttention(_Attention):
    """Bit-identical to segment-anything's ``Attention``, computed in place.

    On a CPU, writing a new matrix costs as much as a matrix product. Heads are processed in groups
    that fit in the cache.
    """

    bias_rows: Tensor
    bias_columns: Tensor

    def __init__(self, attention: Attention, rows: int, columns: int) -> None:
        """Take the weights of a layer; arguments as for ``_biases``."""
        super().__init__(attention)
        by_row, by_column = _biases(attention, rows, columns)
        self.register_buffer("bias_rows", by_row)
        self.register_buffer("bias_columns", by_column)

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
    elements of the key. A plain attention kernel then computes the biased scores:

        s q.k + rel_h[row of k] + rel_w[column of k]
            = s [q, rel_h / s, rel_w / s] . [k, one-hot row, one-hot column]

    There are 2 rows - 1 offsets between rows. A query in row h needs ``rows`` of them, from the
    h-th on: its biases are a window of its products with the embeddings of all offsets. The same
    holds for columns.

    Values are narrower than keys. cuDNN (from Hopper on) and the memory-efficient kernel take that;
    flash attention does not.
    """

    offsets: Tensor
    one_hot: Tensor

    def __init__(self, attention: Attention, rows: int, columns: int) -> None:
        """Take the weights of a layer; arguments as for ``_biases``."""
        super().__init__(attention)
        tables = _biases(attention, rows, columns)
        # Embeddings in ascending order of (row of the query - row of the key), then of columns.
        both = [torch.cat([table[0].flip(0)[:-1], table[:, 0]]) for table in tables]
        self.register_buffer("offsets", torch.cat(both) / self.scale)
        # The window of a query begins with the offset of the last key.
        rows_eye = torch.eye(rows).flip(0).to(self.offsets)
        columns_eye = torch.eye(columns).flip(0).to(self.offsets)
        row_code = rows_eye.repeat_interleave(columns, dim=0)  # (length, rows)
        column_code = columns_eye.repeat(rows, 1)  # (length, columns)
        self.register_buffer("one_hot", torch.cat([row_code, column_code], dim=1))

    def forward(self, tokens: Tensor) -> Tensor:
        """Attend among the tokens of each image or window, shape (B, rows, columns, d)."""
        batch, rows, columns, _ = tokens.shape
        heads, length = self.num_heads, rows * columns
        qkv = self.qkv(tokens).reshape(batch, length, 3, heads, -1)  # (B, length, 3, heads, e)
        size = qkv.shape[-1]

        # Biases of every query: one for each row, one for each column.
        products = F.linear(qkv[:, :, 0], self.offsets).view(batch, rows, columns, heads, -1)
        of_rows, of_columns = torch.split(products, [2 * rows - 1, 2 * columns - 1], dim=-1)
        # (B, rows, columns, heads, offsets) -> (B, rows, columns, heads, window)
        by_row = of_rows.unfold(-1, rows, 1).diagonal(dim1=1, dim2=4).movedim(-1, 1)
        by_column = of_columns.unfold(-1, columns, 1).diagonal(dim1=2, dim2=4).movedim(-1, 2)

        # Queries and keys, extended to a width that fused kernels take.
        width = round_up(size + rows + columns, _STEP)
        extended = F.pad(qkv[:, :, :2], (0, width - size))  # (B, length, 2, heads, width)
        bias = extended.view(batch, rows, columns, 2, heads, width)[:, :, :, 0, :, size:]
        bias[..., :rows] = by_row
        bias[..., rows : rows + columns] = by_column
        extended[:, :, 1, :, size : size + rows + columns] = self.one_hot[:, None]

        # Attention.
        query, key = extended.transpose(1, 3).unbind(2)  # (B, heads, length, width)
        value = qkv[:, :, 2].transpose(1, 2)  # (B, heads, length, e)
        output = F.scaled_dot_product_attention(query, key, value, scale=self.scale)
        projected: Tensor = self.proj(output.transpose(1, 2).reshape(batch, rows, columns, -1))
        return projected


def replace_attention(model: ImageEncoderViT, *, fused: bool) -> None:
    """Replace every attention layer of an image encoder; its weights must be loaded."""
    side = model.img_size // model.patch_embed.proj.stride[0]
    kind = FusedAttention if fused else InPlaceAttention
    for block in model.blocks:
        cells = block.window_size or side
        block.attn = kind(block.attn, cells, cells)
