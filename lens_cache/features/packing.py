"""Many questions about one image in one sequence.

A packed sequence is ``[shared | question 1 | question 2 | ... | padding]``. *Shared* is the system
prefix and the image. Each question attends to the shared part and causally to itself, and has the
positions that it would have alone. Because attention is causal and the image comes first, the
result equals one sequence for each question, while the shared part is computed once.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lens_cache.features.sizes import round_up

# Owner of a padding token.
PADDING = -1
# Rows of token ids are as long as a multiple of this: kernels of a GPU are planned and compiled for
# each shape, and every batch has another number of tokens.
STEP = 128


@dataclass(frozen=True)
class PackedTexts:
    """The questions of B images, one row for each image, padded to the longest row.

    Attributes:
        tokens: States or embeddings, shape (B, T, d), zeros where padded.
        owner: Index of a token's question among those of its image, int64, shape (B, T);
            ``PADDING`` where padded.
        places: Indices into ``owner.flatten()`` of the tokens that are not padding, ascending,
            int64, shape (tokens,).
        image: Index of each question's image, ascending, int64, shape (Q,).
        last: Column in ``owner`` of each question's last token, int64, shape (Q,).
    """

    tokens: Tensor
    owner: Tensor
    places: Tensor
    image: Tensor
    last: Tensor


def pack_texts(texts: Sequence[Sequence[Tensor]]) -> PackedTexts:
    """Pack the questions of B images.

    Args:
        texts: For each image the states of its questions, shapes (T_q, d).

    Raises:
        ValueError: If an image has no question or a question no token. The head reads the answer
            from a question's last token.
    """
    for image, row in enumerate(texts):
        if not row or any(len(text) == 0 for text in row):
            lengths = [len(text) for text in row]
            raise ValueError(
                f"every image needs a question and every question a token; image {image} has "
                f"questions of {lengths} tokens"
            )
    rows = [torch.cat(list(row)) for row in texts]
    owners = [
        torch.cat([torch.full((len(text),), i, dtype=torch.int64) for i, text in enumerate(row)])
        for row in texts
    ]
    owner = torch.nn.utils.rnn.pad_sequence(owners, batch_first=True, padding_value=PADDING)
    return PackedTexts(
        tokens=torch.nn.utils.rnn.pad_sequence(rows, batch_first=True),
        owner=owner.to(rows[0].device),
        places=_places(owner).to(rows[0].device),
        image=_images(texts).to(rows[0].device),
        last=_last_columns(texts).to(rows[0].device),
    )


@dataclass(frozen=True)
class PackedIds:
    """Token ids of the questions of B images, one row for each image, padded to equal lengths.

    Attributes:
        ids: Token ids, int64, shape (B, T); arbitrary where padded. T is the length of the longest
            row, rounded up to a multiple of ``STEP``.
        owner: As in ``PackedTexts``.
        places: As in ``PackedTexts``.
    """

    ids: Tensor
    owner: Tensor
    places: Tensor


def pack_ids(texts: Sequence[Sequence[Sequence[int]]]) -> PackedIds:
    """Pack the questions of B images.

    Args:
        texts: For each image the token ids of its questions; may be empty.
    """
    lengths = [[len(text) for text in row] for row in texts]
    width = round_up(max(sum(row) for row in lengths), STEP)
    ids = torch.zeros(len(texts), width, dtype=torch.int64)
    owner = torch.full((len(texts), width), PADDING)
    for image, row in enumerate(texts):
        start = 0
        for number, text in enumerate(row):
            end = start + len(text)
            ids[image, start:end] = torch.tensor(text, dtype=torch.int64)
            owner[image, start:end] = number
            start = end
    return PackedIds(ids=ids, owner=owner, places=_places(owner))


def _places(owner: Tensor) -> Tensor:
    """Return the indices of tokens that are not padding in the flattened rows."""
    return (owner != PADDING).flatten().nonzero().flatten()


def _images(texts: Sequence[Sequence[Tensor]]) -> Tensor:
    """Return the index of each question's image, int64, shape (Q,)."""
    return torch.arange(len(texts)).repeat_interleave(torch.tensor([len(row) for row in texts]))


def _last_columns(texts: Sequence[Sequence[Tensor]]) -> Tensor:
    """Return the index of each question's last token in its packed row, int64, shape (Q,)."""
    lengths = [torch.tensor([len(text) for text in row]) for row in texts]
    return torch.cat([row.cumsum(0) for row in lengths]) - 1


def block_mask(num_shared: int, owner: Tensor) -> Tensor:
    """Return the attention mask of packed sequences.

    Args:
        num_shared: Length of the shared part.
        owner: As in ``PackedTexts``, shape (B, T).

    Returns:
        Bool, shape (B, 1, S, S) with S = num_shared + T; rows are queries, True may attend. A
        padding position attends only to itself, so that no row of a softmax is empty.
    """
    shared = owner.new_full((owner.shape[0], num_shared), PADDING - 1)
    group = torch.cat([shared, owner], dim=1)
    length = group.shape[1]
    position = torch.arange(length, device=owner.device)
    causal = position[None, :] <= position[:, None]
    same = group[:, :, None] == group[:, None, :]
    to_shared = (position < num_shared)[None, None, :] & (group != PADDING)[:, :, None]
    itself = position[None, :] == position[:, None]
    real = (group != PADDING)[:, :, None]
    return (((same & real) | to_shared) & causal | itself)[:, None]


def text_mask(num_shared: int, owner: Tensor) -> Tensor:
    """Return the rows of ``block_mask`` for the questions' tokens: bool, (B, 1, T, S)."""
    real = (owner != PADDING)[:, :, None]
    index = torch.arange(owner.shape[1], device=owner.device)
    own = (owner[:, :, None] == owner[:, None, :]) & real & (index <= index[:, None])
    own = own | (index == index[:, None])
    return torch.cat([real.expand(-1, -1, num_shared), own], dim=2)[:, None]


def additive_mask(allowed: Tensor, dtype: torch.dtype) -> Tensor:
    """Turn a bool mask (True may attend) into a mask that is added to attention scores.

    transformers passes a 4-D mask to the attention function unchanged. ``eager`` *adds* it, so a
    bool mask would have almost no effect there; an additive mask is right for every function.
    """
    added = torch.zeros(allowed.shape, dtype=dtype, device=allowed.device)
    return added.masked_fill_(~allowed, torch.finfo(dtype).min)


def position_ids(num_shared: int, owner: Tensor) -> Tensor:
    """Return each token's position in its unpacked sequence, int64, shape (B, num_shared + T).

    Positions of padding are arbitrary.
    """
    batch, length = owner.shape
    index = torch.arange(length, device=owner.device).expand(batch, length)
    starts = torch.ones_like(owner, dtype=torch.bool)
    starts[:, 1:] = owner[:, 1:] != owner[:, :-1]
    first = torch.where(starts, index, 0).cummax(dim=1).values
    shared = torch.arange(num_shared, device=owner.device).expand(batch, num_shared)
    return torch.cat([shared, num_shared + index - first], dim=1)


def chunks(texts: Sequence[Sequence[int]], limit: int) -> Iterator[list[Sequence[int]]]:
    """Split texts, in order, into groups of at most ``limit`` tokens; at least one group.

    A longer text is a group by itself.
    """
    group: list[Sequence[int]] = []
    total = 0
    for text in texts:
        if group and total + len(text) > limit:
            yield group
            group = []
            total = 0
        group.append(text)
        total += len(text)
    yield group


def row_groups(lengths: Sequence[int], limit: int) -> Iterator[range]:
    """Split rows, in order, into groups of at most ``limit`` tokens, padding included.

    Args:
        lengths: Tokens of each row.
        limit: Most tokens of a group: its rows times the longest of them. A longer row is a group
            by itself.
    """
    start = 0
    longest = 0
    for row, length in enumerate(lengths):
        longest = max(longest, length)
        if row > start and (row - start + 1) * longest > limit:
            yield range(start, row)
            start = row
            longest = length
    yield range(start, len(lengths))
