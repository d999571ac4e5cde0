"""A batch in one sequence, each token once: ``[prefix | image 1 | ... | image B | questions]``.

Nothing but attention asks what belongs together; everything else in a network, and that is nearly
all of its work, takes tokens one by one. So the prefix, the same for every image, stands here once,
and questions stand without the padding that ``packing`` gives them. ``attend`` takes the sequence
apart, lets each token see what it would see in a sequence of its own, and puts it together again.
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
    """Where the tokens of B images with their questions stand.

    Attributes:
        num_images: B.
        num_prefix: P, tokens of the prefix.
        num_tokens: N, tokens of an image.
        owner: As in ``PackedTexts``, shape (B, T).
        places: As in ``PackedTexts``, shape (tokens,).
    """

    num_images: int
    num_prefix: int
    num_tokens: int
    owner: Tensor
    places: Tensor

    @classmethod
    def of(cls, features: Features) -> FlatBatch:
        """Return where the tokens of a batch stand."""
        images, tokens = features.image_tokens.shape[:2]
        texts = features.texts
        return cls(images, len(features.prefix), tokens, texts.owner, texts.places)

    @property
    def num_shared(self) -> int:
        """Return how many tokens all questions of an image share."""
        return self.num_prefix + self.num_tokens

    def flatten(self, features: Features) -> Tensor:
        """Return the states of all tokens, shape (1, tokens, d)."""
        texts = features.texts.tokens.flatten(0, 1)[self.places]
        return torch.cat([features.prefix, features.image_tokens.flatten(0, 1), texts])[None]

    def positions(self) -> Tensor:
        """Return each token's position in a sequence of its own, int64, shape (1, tokens)."""
        shared = torch.arange(self.num_shared, device=self.owner.device)
        images = shared[self.num_prefix :].repeat(self.num_images)
        texts = position_ids(self.num_shared, self.owner)[:, self.num_shared :]
        flat = torch.cat([shared[: self.num_prefix], images, texts.flatten()[self.places]])
        return flat[None]

    def split(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Take values of the sequence apart.

        Args:
            x: Shape (1, heads, tokens, e).

        Returns:
            Those of the prefix, (1, heads, P, e), of the images, (B, heads, N, e), and of the
            questions, (B, heads, T, e), zeros where padded.
        """
        heads, width = x.shape[1], x.shape[3]
        lengths = [self.num_prefix, self.num_images * self.num_tokens, len(self.places)]
        prefix, images, texts = torch.split(x[0], lengths, dim=1)
        padded = texts.new_zeros(heads, self.owner.numel(), width)
        padded = padded.index_copy(1, self.places, texts)
        return (
            prefix[None],
            images.reshape(heads, self.num_images, -1, width).transpose(0, 1),
            padded.view(heads, self.num_images, -1, width).transpose(0, 1),
        )

    def join(self, prefix: Tensor, images: Tensor, texts: Tensor) -> Tensor:
        """Put together again what ``split`` gave, shape (1, heads, tokens, e)."""
        images = images.transpose(0, 1).flatten(1, 2)
        texts = texts.transpose(0, 1).flatten(1, 2)[:, self.places]
        return torch.cat([prefix[0], images, texts], dim=1)[None]

    def attend(self, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        """Attend, each token to what stands before it in a sequence of its own.

        Args:
            query: Shape (1, heads, tokens, e).
            key: Shape (1, key heads, tokens, e); each serves a group of query heads.
            value: As ``key``.
            scale: Factor on the dot products.

        Returns:
            Shape (1, heads, tokens, e).
        """
        prefix, images, texts = self.split(query)
        keys, values = self._seen(key, query.shape[1]), self._seen(value, query.shape[1])
        shared, own = slice(0, self.num_shared), slice(0, self.num_prefix)
        causal = query.new_ones(self.num_shared, self.num_shared, dtype=torch.bool).tril()
        return self.join(
            attend(prefix, keys[:1, :, own], values[:1, :, own], causal[own, own], scale),
            attend(
                images,
                keys[:, :, shared],
                values[:, :, shared],
                causal[self.num_prefix :],
                scale,
            ),
            attend(texts, keys, values, self.text_mask(), scale),
        )

    def text_scores(self, query: Tensor, key: Tensor, scale: float) -> Tensor:
        """Return the scores of what questions attend to, before the softmax.

        Args:
            query: Shape (1, heads, tokens, e).
            key: Shape (1, key heads, tokens, e).
            scale: Factor on the dot products.

        Returns:
            Shape (B, heads, T, P + N + T); the least number where a token must not look. Float32
            (float64 for double inputs).
        """
        dtype = torch.promote_types(query.dtype, torch.float32)
        texts = self.split(query)[2].to(dtype) * scale
        scores = texts @ self._seen(key.to(dtype), query.shape[1]).transpose(2, 3)
        # Not -inf: padding sees no image, and its gradient would be NaN.
        scores += additive_mask(self.text_mask(), dtype)
        return scores

    def text_mask(self) -> Tensor:
        """Return what the questions' tokens may attend to, bool, (B, 1, T, P + N + T)."""
        return text_mask(self.num_shared, self.owner)

    def _seen(self, x: Tensor, heads: int) -> Tensor:
        """Return prefix, image and questions side by side, shape (B, heads, P + N + T, e)."""
        prefix, images, texts = self.split(x)
        seen = torch.cat([prefix.expand(self.num_images, -1, -1, -1), images, texts], dim=2)
        return seen.repeat_interleave(heads // x.shape[1], dim=1)
