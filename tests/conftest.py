"""Settings and folders that every test shares."""

from pathlib import Path

import pytest
import torch

from lens_cache.encoders.tiny import write_tiny_checkpoints

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tiny_checkpoints(tmp_path_factory) -> Path:
    """A folder with ``llava/`` and ``sam.pth``; do not write into it."""
    folder = tmp_path_factory.mktemp("checkpoints") / "tiny"
    write_tiny_checkpoints(folder)
    return folder
