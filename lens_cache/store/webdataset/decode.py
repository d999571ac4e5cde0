"""Decode the samples of WebDataset's own pipeline: raw members become tensors and JSON.

    samples = webdataset.WebDataset(urls, shardshuffle=False).map(SampleDecoder(store.manifest))

``SampleDecoder`` takes the place of WebDataset's ``decode()``, which returns bfloat16 as uint16 and
int8 or fp8 as bytes, and which would unpickle a member whose name ends in ``.pyd`` or ``.pth``.
Here a member is JSON, or one of the store's arrays in a NumPy file whose header is known in
advance; any other member is an error. Nothing is unpickled.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from lens_cache.errors import CorruptShardError
from lens_cache.features.types import ImageFeatures
from lens_cache.store.layout import ArraySpec, array_name
from lens_cache.store.manifest import Manifest
from lens_cache.store.values import to_tensor
from lens_cache.store.webdataset.samples import npy_values, shape_of, suffix

Sample = dict[str, Any]


class SampleDecoder:
    """Decodes a raw sample of a store; picklable, so that loader workers can have it.

    Args:
        manifest: The manifest of the store.
    """

    def __init__(self, manifest: Manifest) -> None:
        arrays = manifest.specs
        self._specs = {suffix(name): spec for name, spec in arrays.items()}

    def __call__(self, sample: Mapping[str, Any]) -> Sample:
        """Decode the members of a sample.

        Members that the pipeline did not select are absent from the result; the JSON is required.

        Args:
            sample: Bytes by member name, with WebDataset's own entries (``__key__``, ...).

        Returns:
            The same names: ``json`` is a dictionary (see ``samples``), arrays are tensors in the
            model's precision: image tokens (N, d), text tokens of all queries (rows, d), SAM's
            embedding (C, h, w).

        Raises:
            CorruptShardError: If the JSON is missing, or a member is not one of this store.
        """
        where = f"{sample.get('__url__')}: {sample.get('__key__')}"
        if "json" not in sample:
            raise _broken(f"{where} has no JSON")
        try:
            document = json.loads(sample["json"])
            text_rows = max((query["text_rows"][1] for query in document["queries"]), default=0)
        except (ValueError, KeyError, TypeError, IndexError) as error:
            raise _broken(f"{where}.json is damaged ({error!r})") from None
        decoded: Sample = {}
        for name, data in sample.items():
            if name == "json":
                decoded[name] = document
            elif name.startswith("__"):
                decoded[name] = data
            elif name in self._specs:
                decoded[name] = _decode(data, self._specs[name], text_rows, f"{where}.{name}")
            else:
                raise _broken(f"{where}.{name} is not a member of this store")
        return decoded


def sample_features(
    sample: Mapping[str, Any], queries: Sequence[int], *, layer: int, prefix: Tensor
) -> ImageFeatures:
    """Return the features of an image and some of its queries, as ``Store.read`` does.

    Args:
        sample: A decoded sample.
        queries: Positions of queries in ``sample["json"]["queries"]``.
        layer: A tapped layer.
        prefix: States of the system prefix, shape (P, d): ``store.prefix(layer)``.
    """
    text_tokens = sample[suffix(array_name(layer, "text_tokens"))]
    rows = [slice(*sample["json"]["queries"][query]["text_rows"]) for query in queries]
    return ImageFeatures(
        prefix=prefix,
        image_tokens=sample[suffix(array_name(layer, "image_tokens"))],
        text_tokens=[text_tokens[mine] for mine in rows],
        image_embedding=sample[suffix("image_embeddings")],
    )


def _decode(data: bytes, spec: ArraySpec, text_rows: int, where: str) -> Tensor:
    member: NDArray[np.uint8] = np.array(np.frombuffer(data, np.uint8))  # writable, for PyTorch
    values = npy_values(member, shape_of(spec, text_rows), spec)
    if values is None:
        raise _broken(f"{where} is not the array that the manifest describes")
    return to_tensor(values, spec)


def _broken(what: str) -> CorruptShardError:
    return CorruptShardError(f"decoding {what}; run `lens-cache verify STORE --repair`")
