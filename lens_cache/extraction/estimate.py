"""The cost of an extraction, before it runs."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from lens_cache.features.sam_architecture import SamArchitecture
from lens_cache.store.layout import IMAGE_EMBEDDINGS, Group, array_name
from lens_cache.store.manifest import Manifest
from lens_cache.store.questions import Questions

# Share of a plain matrix product's speed that a transformer forward of one image reaches; an
# assumption, stated wherever the estimate is shown.
ASSUMED_UTILISATION = 0.4


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """Cost of an extraction.

    Attributes:
        feature_bytes: Bytes of each group.
        naive_bytes: Bytes if every query carried its own prefix, image states and SAM embedding.
        llava_flops: Floating-point operations of the multimodal LLM (2 per multiply-add).
        naive_llava_flops: The same with one full-depth forward per query.
        sam_flops: Those of SAM's image encoder.
    """

    feature_bytes: dict[Group, int]
    naive_bytes: int
    llava_flops: float
    naive_llava_flops: float
    sam_flops: float

    @property
    def flops(self) -> float:
        """All floating-point operations."""
        return self.llava_flops + self.sam_flops


def estimate(
    manifest: Manifest,
    questions: Questions,
    *,
    vision_config: Mapping[str, Any],
    text_config: Mapping[str, Any],
    sam_architecture: SamArchitecture,
) -> Estimate:
    """Count bytes and operations of a prepared store."""
    images, queries = manifest.plan.images, manifest.plan.queries
    text_tokens = sum(len(ids) for ids in questions.token_ids)
    layers, specs = manifest.layers, manifest.specs
    sizes: dict[Group, int] = {"hidden_states": 0, "image_embeddings": 0}
    naive = 0
    for layer in layers:
        prefix = specs[array_name(layer, "prefix")].chunk_bytes
        image = specs[array_name(layer, "image_tokens")].chunk_bytes
        row = specs[array_name(layer, "text_tokens")].row_bytes
        sizes["hidden_states"] += prefix + images * image + text_tokens * row
        naive += queries * (prefix + image) + text_tokens * row
    embedding = specs[IMAGE_EMBEDDINGS].chunk_bytes
    sizes["image_embeddings"] = images * embedding
    image_tokens = specs[array_name(layers[0], "image_tokens")].shape[1]
    shared = specs[array_name(layers[0], "prefix")].shape[0] + image_tokens
    per_token = _decoder_flops_per_token(text_config)
    decoder = (images * image_tokens + text_tokens) * per_token * max(layers)
    vision = vision_flops(vision_config)
    return Estimate(
        feature_bytes=sizes,
        naive_bytes=naive + queries * embedding,
        # The prefix is left out: it runs once per worker.
        llava_flops=images * vision + decoder,
        naive_llava_flops=queries * vision
        + (queries * shared + text_tokens) * per_token * int(text_config["num_hidden_layers"]),
        sam_flops=images * sam_flops(sam_architecture),
    )


def decoder_flops(
    config: Mapping[str, Any], layers: int, shared: int, texts: Sequence[int]
) -> float:
    """Return the operations of Llama-like decoder layers on one packed sequence.

    Attention is counted where it is allowed: every token sees its own past.

    Args:
        config: The text model's configuration.
        layers: How many layers.
        shared: Tokens before the questions.
        texts: Tokens of each question; each sees the shared part and itself.
    """
    tokens = shared + sum(texts)
    pairs = shared * (shared + 1) / 2 + sum(n * shared + n * (n + 1) / 2 for n in texts)
    scores = 4 * int(config["hidden_size"]) * pairs
    return layers * (tokens * _decoder_flops_per_token(config) + scores)


def measure_flops_per_second(
    dtype: str, seconds: float = 0.5, device: str | None = None
) -> tuple[float, str]:
    """Return the speed of a plain matrix product on a device, and which it was.

    Args:
        dtype: Its precision.
        seconds: About how long to measure.
        device: The device; the GPU if there is one, by default.
    """
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    size = 8192 if device.startswith("cuda") else 1024
    a = torch.randn(size, size, device=device).to(getattr(torch, dtype))

    def timed(repeats: int) -> float:
        began = time.perf_counter()
        for _ in range(repeats):
            product = a @ a
        float(product[0, 0])
        return time.perf_counter() - began

    timed(3)
    repeats = max(1, int(seconds / max(timed(1), 1e-6)))
    return 2 * size**3 * repeats / timed(repeats), device


def _decoder_flops_per_token(config: Mapping[str, Any]) -> float:
    """Operations of one Llama-like decoder layer for one token, without attention scores."""
    d, heads = int(config["hidden_size"]), int(config["num_attention_heads"])
    kv_heads = int(config.get("num_key_value_heads") or heads)
    attention = 2 * d * d + 2 * d * d * kv_heads / heads
    return 2 * (attention + 3 * d * int(config["intermediate_size"]))


def vision_flops(config: Mapping[str, Any]) -> float:
    """Operations of a CLIP tower on one image."""
    d, ff = int(config["hidden_size"]), int(config["intermediate_size"])
    tokens = (int(config["image_size"]) // int(config["patch_size"])) ** 2
    per_layer = 2 * tokens * (4 * d * d + 2 * d * ff) + 4 * tokens * tokens * d
    return int(config["num_hidden_layers"]) * per_layer


def sam_flops(architecture: SamArchitecture) -> float:
    """Operations of SAM's image encoder on one image."""
    d, tokens = architecture.embed_dim, architecture.embedding_size**2
    dense = architecture.depth * 2 * tokens * 12 * d * d
    num_global = len(architecture.global_blocks)
    window = architecture.window_size**2
    scores = 4 * tokens * d * (num_global * tokens + (architecture.depth - num_global) * window)
    return dense + scores
