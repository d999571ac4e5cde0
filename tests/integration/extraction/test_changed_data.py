"""Data that changed after planning is named, never ignored."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image

from lens_cache.errors import DatasetError, StoreMismatchError
from lens_cache.plan.plan import Plan
from lens_cache.store.io.files import read_json, write_json
from pipelines.extraction.dry_run import dry_run
from pipelines.extraction.extract import plan_store
from tests.support.data import own_data, photos
from tests.support.stores import Quiet, contents, extracted, settings, vouch


@pytest.fixture
def data(tmp_path):
    return own_data(tmp_path / "data", photos(3))


def edit(data, change):
    """Change the parsed lines of the listing file."""
    path = data.root / "data.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    path.write_text("\n".join(json.dumps(line) for line in change(lines)))


def one_more(lines):
    return [*lines, {**lines[0], "instruction": "another box"}]


def other_words(lines):
    return [{**line, "instruction": "the bax"} for line in lines]


def plan_command(store, data, checkpoints):
    return [
        *("plan", store, "--set", "data.kind=jsonl", "--set", f"data.root={data.root}"),
        *("--set", f"encoders.root={checkpoints}"),
    ]


@pytest.mark.parametrize(
    ("change", "found"), [(one_more, "bytes were planned"), (other_words, "has changed")]
)
def test_planning_again_names_the_changed_file_and_the_way_out(
    tmp_path, tiny_checkpoints, data, lens_cache, change, found
):
    command = plan_command(tmp_path / "s", data, tiny_checkpoints)
    assert lens_cache(*command)[0] == 0
    before = contents(tmp_path / "s")
    edit(data, change)
    code, _, err = lens_cache(*command)
    assert code == 2
    assert len(err.strip().splitlines()) == 1
    assert all(word in err for word in ("data.jsonl", *found.split(), str(tmp_path / "s/plan")))
    assert contents(tmp_path / "s") == before
    for path in (tmp_path / "s/plan").iterdir():
        path.unlink()
    (tmp_path / "s/plan").rmdir()
    assert lens_cache(*command)[0] == 0
    assert contents(tmp_path / "s") != before


def test_extracting_refuses_changed_data(tmp_path, tiny_checkpoints, data):
    config = settings(data, tiny_checkpoints)
    extracted(tmp_path / "s", config)
    edit(data, other_words)
    for run in (extracted, lambda root, config: dry_run(root, config, Quiet())):
        with pytest.raises(StoreMismatchError, match=r"data.jsonl has changed; put the data back"):
            run(tmp_path / "s", config)


def test_plans_that_do_not_know_their_files_are_used(tmp_path, tiny_checkpoints, data):
    """Plans of older versions have only the settings of the data."""
    config, root = settings(data, tiny_checkpoints), tmp_path / "s"
    extracted(root, config)
    older = read_json(root / "plan/settings.json", purpose="")
    del older["listing"]
    write_json(root, root / "plan/settings.json", older)
    vouch(root)
    edit(data, one_more)
    assert extracted(root, config).reports == []


def test_an_instruction_with_the_image_token_is_skipped(tmp_path, tiny_checkpoints, data):
    edit(data, lambda lines: [*lines, {**lines[0], "instruction": "the <image> dog"}])
    config, root = settings(data, tiny_checkpoints), tmp_path / "s"
    plan_store(root, config, Quiet())
    (skipped,) = Plan.load(root / "plan").quarantine.to_pylist()
    assert (skipped["path"], skipped["what"]) == ("0.png", "query 'the <image> dog'")
    assert "reserved for the image" in skipped["reason"]
    assert extracted(root, config).queries == 3


def test_an_instruction_of_a_megabyte_is_skipped(tmp_path, tiny_checkpoints, data):
    edit(data, lambda lines: [*lines, {**lines[0], "instruction": "dog " * 250_000}])
    config, root = settings(data, tiny_checkpoints), tmp_path / "s"
    plan_store(root, config, Quiet())
    (skipped,) = Plan.load(root / "plan").quarantine.to_pylist()
    assert skipped["path"] == "0.png"
    assert len(skipped["what"]) < 100
    assert "at most 16384 fit" in skipped["reason"]
    assert extracted(root, config).queries == 3


def test_an_instruction_that_the_model_has_no_positions_for_is_named(
    tmp_path, tiny_checkpoints, data
):
    edit(data, lambda lines: [*lines, {**lines[0], "instruction": "dog " * 4090}])
    with pytest.raises(DatasetError, match=r"of 0.png: query [0-9a-f]{16} has \d+ tokens") as error:
        extracted(tmp_path / "s", settings(data, tiny_checkpoints))
    assert "\n" not in str(error.value)


def drawn_again(path):
    """Draw another mask of the same size in pixels."""
    mask = np.zeros(np.asarray(Image.open(path)).shape, np.uint8)
    mask[1::3, ::2] = 255
    Image.fromarray(mask).save(path)


def test_masks_that_are_drawn_again_are_named(tmp_path, tiny_checkpoints, data):
    (data.root / "masks").mkdir()
    mask = data.root / "masks/box.png"
    height, width = np.asarray(Image.open(data.root / "0.png")).shape[:2]
    box = np.zeros((height, width), np.uint8)
    box[2:9, 2:9] = 255
    Image.fromarray(box).save(mask)
    edit(data, lambda lines: [{**lines[0], "mask": "masks/box.png"}, *lines[1:]])
    config, root = settings(data, tiny_checkpoints), tmp_path / "s"
    plan_store(root, config, Quiet())
    plan_store(root, config, Quiet())
    drawn_again(mask)
    with pytest.raises(StoreMismatchError, match=r"masks/\*\.png have changed: 1 files"):
        plan_store(root, config, Quiet())
    mask.unlink()
    with pytest.raises(StoreMismatchError, match="0 files of 0 bytes, 1 of"):
        extracted(root, config)


def test_panoptic_pngs_that_are_drawn_again_are_named(tmp_path, tiny_checkpoints, tiny_coco):
    coco = shutil.copytree(tiny_coco, tmp_path / "coco")
    root = tmp_path / "s"
    config = settings(coco, tiny_checkpoints)
    extracted(root, config)
    png = next((coco / "annotations/panoptic_train2017").glob("*.png"))
    png.write_bytes(png.read_bytes() + b"more")
    with pytest.raises(StoreMismatchError, match=r"panoptic_train2017/\*\.png have changed"):
        extracted(root, config)
