"""A batch as one flat sequence: ``[prefix | image 1 | ... | image B | questions]``.

Only attention mixes tokens; all other layers act on each token by itself. So the batch is one
sequence in which the prefix, the same for every image, occurs once and the questions have no
padding. ``FlatBatch.attend`` splits the sequence, lets each token attend to the tokens that it
would see in a sequence of its own, and joins the results.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lens_cache.features.attention import attend
from lens_cache.features.packing import additive_mask, position_ids, text_mask
from lens_cache.features.types import Features


@dataclass(frozen=True)
class FlatBatch:
    """Layout of B images with their questions in a flat sequence of P + B N + text tokens.

    Attributes:
        num_images: B.
        num_prefix: P, tokens of the prefix.
        num_tokens: N, tokens of an image.
        owner: As in ``PackedTexts``, shape (B, T).
        places: As in ``PackedTexts``, shape (text tokens,).
    """

    num_images: int
    num_prefix: int
    num_tokens: int
    owner: Tensor
    places: Tensor

    @classmethod
    def of(cls, features: Features) -> FlatBatch:
        """Return the layout of a batch."""
        num_images, num_tokens = features.image_tokens.shape[:2]
        return cls(
            num_images=num_images,
            num_prefix=len(features.prefix),
            num_tokens=num_tokens,
            owner=features.texts.owner,
            places=features.texts.places,
        )

    @property
    def num_shared(self) -> int:
        """Number of tokens that all questions of an image share: P + N."""
        return self.num_prefix + self.num_tokens

    def flatten(self, features: Features) -> Tensor:
        """Return the states of all tokens, shape (1, tokens, d)."""
        texts = features.texts.tokens.flatten(0, 1)[self.places]  # (text tokens, d)
        return torch.cat([features.prefix, features.image_tokens.flatten(0, 1), texts])[None]

    def positions(self) -> Tensor:
        """Return each token's position in its unpacked sequence, int64, shape (1, tokens)."""
        shared = torch.arange(self.num_shared, device=self.owner.device)
        images = shared[self.num_prefix :].repeat(self.num_images)
        texts = position_ids(self.num_shared, self.owner)[:, self.num_shared :]
        flat = torch.cat([shared[: self.num_prefix], images, texts.flatten()[self.places]])
        return flat[None]

    def split(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Split values of the sequence into prefix, images and questions.

        Args:
            x: Shape (1, heads, tokens, e).

        Returns:
            Prefix, (1, heads, P, e), images, (B, heads, N, e), and questions, (B, heads, T, e),
            zeros where padded.
        """
        _, heads, _, width = x.shape
        lengths = [self.num_prefix, self.num_images * self.num_tokens, len(self.places)]
        prefix, images, texts = torch.split(x[0], lengths, dim=1)
        images = images.reshape(heads, self.num_images, -1, width)  # (heads, B, N, e)
        padded = texts.new_zeros(heads, self.owner.numel(), width)
        padded = padded.index_copy(1, self.places, texts)
        padded = padded.view(heads, self.num_images, -1, width)  # (heads, B, T, e)
        return prefix[None], images.transpose(0, 1), padded.transpose(0, 1)

    def join(self, prefix: Tensor, images: Tensor, texts: Tensor) -> Tensor:
        """Undo ``split``; returns shape (1, heads, tokens, e)."""
        images = images.transpose(0, 1).flatten(1, 2)
        texts = texts.transpose(0, 1).flatten(1, 2)[:, self.places]
        return torch.cat([prefix[0], images, texts], dim=1)[None]

    def attend(self, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        """Attend; each token sees the tokens before it in its unpacked sequence.

        Args:
            query: Shape (1, heads, tokens, e).
            key: Shape (1, key heads, tokens, e); each key head serves a group of query heads.
            value: As ``key``.
            scale: Factor on the dot products.

        Returns:
            Shape (1, heads, tokens, e).
        """
        heads = query.shape[1]
        prefix, images, texts = self.split(query)
        keys = self._seen(key, heads)  # (B, heads, P + N + T, e)
        values = self._seen(value, heads)
        first = slice(0, self.num_prefix)
        shared = slice(0, self.num_shared)

        # Prefix and images are causal; the mask of the texts keeps questions apart.
        causal = query.new_ones(self.num_shared, self.num_shared, dtype=torch.bool).tril()
        prefix = attend(
            prefix, keys[:1, :, first], values[:1, :, first], causal[first, first], scale
        )
        images = attend(
            images, keys[:, :, shared], values[:, :, shared], causal[self.num_prefix :], scale
        )
        texts = attend(texts, keys, values, self.text_mask(), scale)
        return self.join(prefix, images, texts)

    def text_scores(self, query: Tensor, key: Tensor, scale: float) -> Tensor:
        """Return the attention scores of the questions' tokens, before the softmax.

        Args:
            query: Shape (1, heads, tokens, e).
            key: Shape (1, key heads, tokens, e).
            scale: Factor on the dot products.

        Returns:
            Shape (B, heads, T, P + N + T), float32 (float64 for float64 inputs); the lowest finite
            number where a token must not attend.
        """
        dtype = torch.promote_types(query.dtype, torch.float32)
        _, _, texts = self.split(query)
        keys = self._seen(key.to(dtype), query.shape[1])
        scores = (texts.to(dtype) * scale) @ keys.transpose(2, 3)
        # Not -inf: padding attends to no image token, so its gradient would be NaN.
        scores += additive_mask(self.text_mask(), dtype)
        return scores

    def text_mask(self) -> Tensor:
        """Return which tokens the questions' tokens may attend to, bool, (B, 1, T, P + N + T)."""
        return text_mask(self.num_shared, self.owner)

    def _seen(self, x: Tensor, heads: int) -> Tensor:
        """Return keys or values of each image's packed sequence, (B, heads, P + N + T, e)."""
        prefix, images, texts = self.split(x)
        seen = torch.cat([prefix.expand(self.num_images, -1, -1, -1), images, texts], dim=2)
        return seen.repeat_interleave(heads // x.shape[1], dim=1)
