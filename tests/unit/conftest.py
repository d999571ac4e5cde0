"""The tiny LLaVA, loaded once for all tests of the encoders."""

import pytest

from lens_cache.encoders.llava import LlavaEncoder
from lens_cache.encoders.llava_prompt import LlavaPrompt
from lens_cache.encoders.reference import PlainLlava
from tests.support.llava import LAYERS


@pytest.fixture(scope="session")
def folder(tiny_checkpoints):
    return tiny_checkpoints / "llava"


@pytest.fixture(scope="session")
def prompt(folder):
    return LlavaPrompt.from_folder(folder)


@pytest.fixture(scope="session")
def encoder(folder):
    return LlavaEncoder.from_checkpoint(folder, layers=LAYERS)


@pytest.fixture(scope="session")
def plain(folder):
    return PlainLlava.from_checkpoint(folder)
