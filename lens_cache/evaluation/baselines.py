"""Baselines: masks from the frozen models without LENS, to compare a gIoU with.

Nothing here is trained. Masks are bool over the pixels of the image, maps are over the grid, points
are (x, y) in normalised coordinates of the square.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from lens_cache.config.train import ModelConfig
from lens_cache.errors import StoreError
from lens_cache.evaluation.metrics import MaskScore, score_masks
from lens_cache.evaluation.point_prompter import PointPrompter
from lens_cache.features.frozen_parts import FrozenParts
from lens_cache.features.types import Features
from lens_cache.images.geometry import grid_to_normalised, logits_to_image
from lens_cache.models.head import HeadOutput, SegmentationHead
from lens_cache.models.keypoints import select_keypoints
from lens_cache.store.store import Store
from lens_cache.training.sampling import Draw

Rows = Literal["mean", "last"]
ORACLE_POINTS = 3
# Minimal distance of oracle points as a share of the longest side, and their minimal depth inside
# the mask as a share of its greatest depth.
_APART, _DEEP = 1 / 8, 0.25


@dataclass(frozen=True, order=True)
class Reading:
    """One way to read the MLLM's raw attention.

    Attributes:
        layer: The decoder layer.
        rows: The ``mean`` over the text tokens, or the ``last`` one.
    """

    layer: int
    rows: Rows


class FrozenMasks:
    """Masks from the frozen parts and features of a store, image by image, on the CPU.

    Attributes:
        readings: Every reading with stored decoder weights; the MLLM's last layer has none.
    """

    def __init__(self, store: Store) -> None:
        """Build SAM's decoder, and the MLLM's attention at every cached layer.

        Raises:
            StoreError: If the store has the weights of none of its layers.
        """
        frozen = store.frozen()
        self._store = store
        self._sam = PointPrompter(frozen.sam_architecture, frozen.sam).eval()
        self.readings = [
            Reading(layer, rows)
            for layer in sorted(frozen.decoder_layers)
            for rows in get_args(Rows)
        ]
        if not self.readings:
            raise StoreError(
                f"measuring baselines on {store.root}: expected the weights of a cached layer "
                f"and of the next, found none for {list(store.layers)}; extract an "
                "earlier layer with --set encoders.llava.layers=[...]"
            )
        self._heads = {reading: attention_reader(frozen, reading) for reading in self.readings}
        # Each map is used twice in a row: thresholded, and pointed at.
        self._maps = lru_cache(maxsize=1)(self._read_maps)

    def attention(self, draw: Draw, reading: Reading, shares: Sequence[float]) -> Tensor:
        """Threshold each raw attention map at shares of its peak; bool (Q, len(shares), H, W)."""
        maps = self._maps(draw, reading)
        return torch.stack([masks_above(one, shares, **self._sizes(draw)) for one in maps])

    def at_peak(self, draw: Draw, reading: Reading) -> Tensor:
        """Prompt SAM at the peak of each query's raw attention; bool (Q, H, W)."""
        return self.at_points(draw, list(peak_points(self._maps(draw, reading))))

    def at_points(self, draw: Draw, points: Sequence[Tensor]) -> Tensor:
        """Prompt SAM by the positive points of each query, shapes (n, 2); bool (Q, H, W)."""
        layer = self._store.layers[0]
        embedding = self._store.read(draw.image, (), layer).image_embedding.float()
        logits: dict[int, Tensor] = {}
        # Grouped by length, not padded: SAM's padding point changes the answer.
        for count in {len(mine) for mine in points}:
            same = [number for number, mine in enumerate(points) if len(mine) == count]
            answers = self._sam(embedding, torch.stack([points[number] for number in same]))
            logits.update(zip(same, answers, strict=True))
        sizes = self._sizes(draw)
        return torch.stack([logits_to_image(logits[i], **sizes) > 0 for i in range(len(points))])

    def _read_maps(self, draw: Draw, reading: Reading) -> Tensor:
        features = Features.stack([self._store.read(draw.image, draw.queries, reading.layer)])
        head: HeadOutput = self._heads[reading](features.to("cpu", torch.float32))
        return head.grounding_map

    def _sizes(self, draw: Draw) -> dict[str, int]:
        image = self._store.plan.image(draw.image)
        return {"width": image.width, "height": image.height, "side": self._store.manifest.side}


def attention_reader(frozen: FrozenParts, reading: Reading) -> SegmentationHead:
    """Return a head whose grounding map is the MLLM's own attention, mean over its heads.

    The first layer of the untrained head is the MLLM's layer L, and its input are the states of L.
    """
    config = ModelConfig(attention_rows=reading.rows, attention_normalisation="none")
    head = SegmentationHead(config, frozen, reading.layer).eval().requires_grad_(False)
    head.keep_first_layer()
    return head


def masks_above(
    grounding_map: Tensor, shares: Sequence[float], *, width: int, height: int, side: int
) -> Tensor:
    """Threshold a map, resized to the image, at shares of its peak.

    Args:
        grounding_map: Over the square, shape (rows, columns).
        shares: Thresholds as shares of the peak, each in (0, 1).
        width: Width of the image in pixels.
        height: Height of the image in pixels.
        side: Side of the square in pixels.

    Returns:
        Bool, shape (len(shares), height, width).
    """
    values = logits_to_image(grounding_map, width=width, height=height, side=side)
    cuts = torch.tensor(shares, dtype=values.dtype, device=values.device) * values.max()
    return values > cuts[:, None, None]


def peak_points(grounding_maps: Tensor) -> Tensor:
    """Return the centre of each map's strongest cell; (Q, rows, columns) to (Q, 1, 2)."""
    rows, columns = grounding_maps.shape[1:]
    best = grounding_maps.flatten(1).argmax(dim=1)
    cells = torch.stack([best % columns, best // columns], dim=-1).to(grounding_maps.dtype)
    return grid_to_normalised(cells, (rows, columns), "centre")[:, None]


def points_inside(mask: Tensor, count: int = ORACLE_POINTS) -> Tensor:
    """Choose points deep inside a mask and far from each other.

    Args:
        mask: Bool, shape (H, W), with some foreground.
        count: Maximal number of points.

    Returns:
        Shape (n, 2) with 1 <= n <= ``count``, the deepest point first.
    """
    longest = max(mask.shape)
    pixels, valid = select_keypoints(
        _depth(mask)[None], max_keypoints=count, radius=longest * _APART, threshold=_DEEP
    )
    return (pixels[0][valid[0]] + 0.5) / longest


def random_thing(things: Tensor, target: Tensor, ignore: Tensor, drawn: int) -> MaskScore:
    """Compare every thing of an image with a target; ``iou`` is the mean over all things.

    Args:
        things: Masks, bool, shape (n, H, W).
        target: True mask, bool, shape (H, W).
        ignore: Pixels that are not counted, bool, shape (H, W).
        drawn: The thing used for the pixel counts, 0 <= drawn < n.
    """
    results = score_masks(things, target.expand_as(things), ignore.expand_as(things))
    expected = sum(result.iou for result in results) / len(results)
    return replace(results[drawn], iou=expected, boundary_iou=None)


def _depth(mask: Tensor) -> Tensor:
    """Return the number of one-pixel erosions that each pixel survives, float32, (H, W)."""
    left = mask.float()
    depth = torch.zeros_like(left)
    while left.any():
        depth += left
        # Pixels outside the image are background.
        left = -F.max_pool2d(-F.pad(left, (1, 1, 1, 1))[None], 3, stride=1)[0]
    return depth
