"""One predictor of the world of shapes for all tests of the server."""

import pytest

pytest.importorskip("fastapi", reason="pip install 'lens-cache[serve]'")

from fastapi.testclient import TestClient

from lens_cache.assets import SHAPES_PICTURES
from lens_cache.predictor import LensPredictor
from pipelines.serve.api import create_app

RING = (SHAPES_PICTURES / "ring.png").read_bytes()
RED_RING, STAR = "the red ring", "the small star"


@pytest.fixture(scope="session")
def predictor():
    return LensPredictor.from_pretrained("shapes", device="cpu", chat=True)


@pytest.fixture
def client(predictor):
    with TestClient(create_app(predictor)) as client:
        yield client
    client.app.state.service.batcher.close()
