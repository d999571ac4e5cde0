import pytest

from lens_cache.assets import PHOTOGRAPHS
from lens_cache.errors import ConfigError
from pipelines.demo import photographs
from pipelines.progress import Bars
from tests.support.pictures import write_coco


def test_shipped_photographs_have_one_split():
    assert photographs._only_split(PHOTOGRAPHS) == "train2017"


@pytest.mark.parametrize("splits", [[], ["train2017", "val2017"]])
def test_unclear_split_is_refused_before_anything_is_written(tmp_path, splits):
    for split in splits:
        write_coco(tmp_path / "coco", split=split)
    with pytest.raises(
        ConfigError, match=r"--split.*splits found: " + (", ".join(splits) or "none")
    ):
        photographs.run_photographs_demo(tmp_path / "out", tmp_path / "coco", None, Bars())
    assert not (tmp_path / "out").exists()
