"""A folder with one picture, and a predictor without models."""

import pytest

from tests.support.pictures import colours, encoded
from tests.support.predictors import BoxPredictor

WIDTH, HEIGHT = 40, 30
PICTURE = colours(WIDTH, HEIGHT)


@pytest.fixture
def root(tmp_path):
    """A folder with ``a.png``, beside ``secret.png``."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    (folder / "a.png").write_bytes(encoded(PICTURE))
    (folder / "text.png").write_text("hello")
    (tmp_path / "secret.png").write_bytes(encoded(PICTURE))
    return folder


@pytest.fixture
def predictor():
    return BoxPredictor()
