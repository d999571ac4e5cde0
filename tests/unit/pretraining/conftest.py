"""One training of two steps a stage, for all tests of this folder."""

import pytest

from pipelines.pretraining.pretrain import pretrain
from pipelines.progress import Bars
from tests.unit.pretraining.test_pretraining import TWO_STEPS


@pytest.fixture(scope="package")
def trained(tmp_path_factory):
    """Everything that a training of two steps a stage leaves."""
    folder = tmp_path_factory.mktemp("pretraining")
    with Bars() as bars:
        pretrain(folder, TWO_STEPS, 1, bars)
    return folder
