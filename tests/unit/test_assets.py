import json
import re

import pytest

from lens_cache.assets import PHOTOGRAPHS
from lens_cache.config.data import DataConfig
from lens_cache.datasets.coco import splits_of
from lens_cache.plan.build import build_plan

LICENCES = {
    "CC BY 2.0": "https://creativecommons.org/licenses/by/2.0/",
    "CC BY-SA 2.0": "https://creativecommons.org/licenses/by-sa/2.0/",
    "No known copyright restrictions": "https://www.flickr.com/commons/usage/",
    "United States Government Work": "https://www.usa.gov/copyright.shtml",
}
ROW = re.compile(r"^\| `(\d+\.jpg)` \| [^|]+ \| \[(.+)\]\((.+)\) \| <(http.+)> \|$", re.MULTILINE)


@pytest.fixture(scope="module")
def attributed():
    """(licence, its address, source) by file name."""
    text = (PHOTOGRAPHS / "ATTRIBUTION.md").read_text(encoding="utf-8")
    return {name: rest for name, *rest in ROW.findall(text)}


def test_every_photograph_is_attributed_and_no_other(attributed):
    photographs = {file.name for file in (PHOTOGRAPHS / "train2017").iterdir()}
    assert photographs == set(attributed)
    assert len(photographs) == 12


def test_licences_allow_shipping(attributed):
    for licence, address, source in attributed.values():
        assert LICENCES[licence] == address
        assert "staticflickr.com/" in source


def test_attribution_agrees_with_the_annotations(attributed):
    document = json.loads((PHOTOGRAPHS / "annotations/panoptic_train2017.json").read_bytes())
    numbers = {"CC BY 2.0": 4, "CC BY-SA 2.0": 5, "No known copyright restrictions": 7}
    stated = {image["file_name"]: image for image in document["images"]}
    assert set(stated) == set(attributed)
    for name, (licence, _, source) in attributed.items():
        assert stated[name]["license"] == numbers[licence]
        assert stated[name]["flickr_url"] == source


def test_small():
    assert sum(file.stat().st_size for file in PHOTOGRAPHS.rglob("*") if file.is_file()) < 2_000_000


def test_plans_with_nothing_set_aside():
    (split,) = splits_of(PHOTOGRAPHS)
    plan = build_plan(DataConfig(root=PHOTOGRAPHS, split=split))
    assert plan.num_images == 12
    assert plan.num_queries > 12
    assert plan.quarantine.num_rows == 0
