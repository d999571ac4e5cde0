"""Compare stored features with the plain forward of the models (invariant I3).

Random records are computed again without any optimisation: the whole Hugging Face model, one image,
one question, no packing; SAM through its own predictor.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lens_cache.config.extract import ExtractConfig
from lens_cache.encoders.reference import PlainLlava, PlainSam
from lens_cache.encoders.resolve import Encoders
from lens_cache.errors import ImageError
from lens_cache.images.decode import content_id, read_image
from lens_cache.images.files import read_image_file
from lens_cache.images.geometry import image_to_square
from lens_cache.store.layout import IMAGE_EMBEDDINGS, ArraySpec, array_name
from lens_cache.store.manifest import require_same
from lens_cache.store.store import Store

# Largest allowed ||stored - plain|| / ||plain||. The order of summation in kernels depends on the
# sequence length, so packed and plain differ by rounding that grows over the layers.
TOLERANCE = {"float32": 1e-4, "float16": 1e-2, "bfloat16": 5e-2}
# Added for a lower stored precision. A step of fp8 is 1/8 to 1/16 of a value; one of int8 is 1/127
# of the strongest value that is not stored separately.
CODE_TOLERANCE = {"fp8": 4e-2, "int8": 4e-2}


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """How far one stored array of one record is from the plain forward.

    Attributes:
        query_id: The record.
        array: ``prefix``, ``image_tokens``, ``text_tokens`` (with the layer) or
            ``image_embeddings``.
        relative_error: ||stored - plain|| / ||plain||.
        largest_error: Largest absolute difference.
        tolerance: Largest allowed ``relative_error``.
    """

    query_id: str
    array: str
    relative_error: float
    largest_error: float
    tolerance: float

    @property
    def good(self) -> bool:
        """Whether the error is within the tolerance."""
        return self.relative_error <= self.tolerance


def recompute(
    store: Store,
    config: ExtractConfig,
    count: int,
    *,
    seed: int = 0,
    device: str = "cpu",
    progress: Callable[[int, int], None] | None = None,
) -> list[Agreement]:
    """Compare random records of a store with the plain forward.

    Args:
        store: The store.
        config: Its settings, with paths to data and checkpoints that are valid on this machine.
        count: Number of queries to draw (all if there are fewer).
        seed: Chooses the queries.
        device: The device of the plain models.
        progress: Called with records done and in all.

    Raises:
        StoreMismatchError: If the checkpoints are not those of the store.
        ImageError: If an image cannot be read or has changed.
    """
    encoders = Encoders.resolve(config)
    for group, fingerprint in encoders.fingerprints.items():
        stored = store.manifest.fingerprints[group]
        run = "Give the checkpoints that the store was extracted with (--set encoders.root=...)"
        require_same(store.root, f"the group {group}", stored, fingerprint, run)
    queries = [query for image in store.images(None) for query in store.plan.query_range(image)]
    chosen = np.random.default_rng(seed).permutation(queries)[:count]
    language = PlainLlava.from_checkpoint(
        encoders.llava,
        dtype=getattr(torch, config.encoders.llava.dtype),
        device=device,
    )
    sam = PlainSam.from_checkpoint(
        encoders.sam, dtype=getattr(torch, config.encoders.sam.dtype), device=device
    )
    found: list[Agreement] = []
    for done, query in enumerate(sorted(int(q) for q in chosen), 1):
        found += _compare(store, config, query, language, sam)
        if progress is not None:
            progress(done, len(chosen))
    return found


def _compare(
    store: Store, config: ExtractConfig, query: int, language: PlainLlava, sam: PlainSam
) -> list[Agreement]:
    """Compare every array of one query."""
    planned = store.plan.query(query)
    image = store.plan.image(planned.image_index)
    assert config.data.root is not None
    try:
        data = read_image_file(config.data.root, image.path)
    except OSError as error:
        raise ImageError(
            f"recomputing {image.path}: {config.data.root / image.path}: {error.strerror}; "
            "give the data's folder with --set data.root=..."
        ) from None
    if content_id(data) != image.image_id:
        raise ImageError(f"recomputing {image.path}: the file has changed since it was planned")
    picture = read_image(data)
    plain = language.states(
        image_to_square(picture, store.manifest.side),
        planned.question,
        config.encoders.llava.layers,
    )
    embedding = sam.encode(picture)
    pairs: dict[str, tuple[Tensor, Tensor]] = {}
    for layer, (prefix, image_tokens, text_tokens) in plain.items():
        features = store.read(planned.image_index, [query], layer)
        pairs |= {
            array_name(layer, "prefix"): (features.prefix, prefix),
            array_name(layer, "image_tokens"): (features.image_tokens, image_tokens),
            array_name(layer, "text_tokens"): (features.text_tokens[0], text_tokens),
            IMAGE_EMBEDDINGS: (features.image_embedding, embedding),
        }
    return [
        _agreement(planned.query_id, name, *pair, _tolerance(store.features.spec(name)))
        for name, pair in pairs.items()
    ]


def _tolerance(spec: ArraySpec) -> float:
    if spec.code is None:
        return TOLERANCE[spec.dtype]
    return TOLERANCE[spec.code.dtype] + CODE_TOLERANCE[spec.code.precision]


def _agreement(
    query_id: str, array: str, stored: Tensor, plain: Tensor, tolerance: float
) -> Agreement:
    if stored.shape != plain.shape:
        raise ImageError(
            f"recomputing {query_id}: {array} has shape {tuple(stored.shape)} in the store, "
            f"{tuple(plain.shape)} in the plain forward"
        )
    a, b = stored.double(), plain.cpu().double()
    return Agreement(
        query_id=query_id,
        array=array,
        relative_error=float((a - b).norm() / b.norm().clamp(min=1e-30)),
        largest_error=float((a - b).abs().max()),
        tolerance=tolerance,
    )
