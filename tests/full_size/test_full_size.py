"""Needs 10 GB of disk and 12 GB of memory; run by ``make smoke-full-size``."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import zarr

import lens_cache
from lens_cache.store.store import Store
from tests.full_size.checkpoints import write_full_size
from tests.support import REPOSITORY

pytestmark = pytest.mark.full_size
PHOTOGRAPHS = Path(lens_cache.__file__).parent / "assets" / "photographs"


@pytest.fixture(scope="module")
def extracted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("full-size")
    write_full_size(folder)
    store = folder / "store"
    run = subprocess.run(
        [sys.executable, "-m", "tests.full_size.extract_one", store, PHOTOGRAPHS, folder],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr[-3000:]
    found = json.loads(run.stdout.splitlines()[-1])
    print(json.dumps(found, indent=2))
    return store, found


def test_one_photograph_at_full_size(extracted):
    store, _ = extracted
    image_tokens = zarr.open_array(store / "hidden_states/layer_14/image_tokens", mode="r")
    embeddings = zarr.open_array(store / "image_embeddings", mode="r")
    assert image_tokens.shape == (1, 576, 4096)
    assert embeddings.shape == (1, 256, 64, 64)
    opened = Store(store)
    queries = list(opened.plan.query_range(0))
    features = opened.read(0, queries, 14)
    assert features.image_tokens.shape == (576, 4096)
    assert features.image_embedding.shape == (256, 64, 64)
    for values in (features.image_tokens, features.image_embedding, *features.text_tokens):
        assert values.dtype == torch.bfloat16
        assert np.isfinite(values.float().numpy()).all()
        assert values.float().std() > 0


def test_layers_past_the_tapped_one_are_never_allocated(extracted):
    _, found = extracted
    assert found["decoder_layers"] == 14
    layer = 4 * 4096**2 + 3 * 4096 * 11008 + 2 * 4096
    # The whole model has 7.06 billion parameters.
    assert found["parameters"] < 14 * layer + 0.5e9
    models = 2 * (found["parameters"] + found["sam_parameters"])
    assert models < found["peak_bytes"] < models + 5e9
