"""The samples of a store through the ``webdataset`` package.

WebDataset's reader does not replace ours (``tar_file``, ``stream``). It checks no checksum; it
skips members that are links or devices, where ours refuses the tar; it reads every member of a
sample into memory before it can be left out; it has no random access, and no position to resume an
exact sequence of samples from. Use it where its shuffling, splitting and mixing of tars is wanted.
"""

from __future__ import annotations

from typing import Any

import webdataset

from lens_cache.errors import ConfigError
from lens_cache.store.io.remote import is_remote
from lens_cache.store.store import Store
from lens_cache.store.webdataset.decode import SampleDecoder
from lens_cache.store.webdataset.samples import tar_path


def sample_pipeline(store: Store, **options: Any) -> webdataset.WebDataset:
    """Return WebDataset's pipeline over the tars of a store, with decoded samples.

    Samples that only some group could extract are not part of it. For the form of a sample see
    ``SampleDecoder``; ``sample_features`` makes the input of a ``LensModel`` of it.

    Args:
        store: A store in the webdataset format, on a local disk.
        options: Arguments of ``webdataset.WebDataset``: ``shardshuffle`` (default False),
            ``nodesplitter``, ``select_files``, ...

    Raises:
        ConfigError: If the store has another format or is behind a URL, which WebDataset would
            read through external commands.
    """
    if store.manifest.format != "webdataset":
        raise ConfigError(
            f"reading {store.root} with webdataset: expected a store in the webdataset format, "
            f"found {store.manifest.format}; run `lens-cache convert STORE DEST --format "
            "webdataset`"
        )
    if is_remote(store.root):
        raise ConfigError(
            f"reading {store.root} with webdataset: expected a store on a local disk; train with "
            "--set batch.order=stream, which reads URLs, or copy the store"
        )
    catalogue = store.catalogue
    shards = sorted(store.shards) if store.shards is not None else range(catalogue.num_shards)
    urls = [str((store.root / tar_path(shard)).absolute()) for shard in shards]
    samples = webdataset.WebDataset(urls, **{"shardshuffle": False, **options})
    return samples.map(SampleDecoder(catalogue.manifest))
