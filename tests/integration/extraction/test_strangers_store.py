"""A store from somewhere else writes nothing outside, and its names do not steer the terminal."""

import json

import pyarrow as pa
import pytest

from lens_cache.errors import CorruptShardError, StoreError, one_line, printable
from lens_cache.plan.plan import Plan
from lens_cache.store.commits import commit_path
from lens_cache.store.convert import convert
from lens_cache.store.io.files import read_json, write_json
from lens_cache.store.verify import verify_store
from pipelines.extraction.runners import run_in_process
from pipelines.extraction.verify import repair_store
from tests.support.data import own_data, photos
from tests.support.stores import Quiet, assert_same, copied, extracted, settings, vouch


@pytest.fixture
def root(tmp_path, tiny_store):
    return copied(tiny_store, tmp_path / "s")


def outside(tmp_path):
    return {path.name for path in tmp_path.iterdir()}


@pytest.mark.parametrize("place", ["absolute", "above"])
def test_an_array_outside_the_store_is_refused(tmp_path, root, place):
    path = {"absolute": str(tmp_path / "evil/e"), "above": "../evil/e"}[place]
    document = read_json(root / "manifest.json", purpose="")
    document["arrays"]["image_embeddings"]["image_embeddings"]["path"] = path
    write_json(root, root / "manifest.json", document)
    with pytest.raises(StoreError, match="names an array outside the store"):
        convert(root, tmp_path / "dest", wanted="webdataset")
    assert outside(tmp_path) == {"s"}


def test_a_record_of_a_file_outside_the_store_is_refused(tmp_path, root):
    for group in ("shared", "image_embeddings"):
        copy = copied(root, tmp_path / group)
        path = commit_path(copy, group, 0)
        document = read_json(path, purpose="")
        document["objects"][0]["path"] = "frozen/../../evil"
        write_json(copy, path, document)
        with pytest.raises(CorruptShardError, match="outside the store"):
            convert(copy, tmp_path / "dest", wanted="webdataset")
        assert any("outside the store" in problem.what for problem in verify_store(copy).problems)


def test_an_image_id_that_is_a_path_is_refused(tmp_path, root):
    plan = Plan.load(root / "plan")
    for name, column in (("images", 0), ("queries", 2)):
        table = getattr(plan, name)
        ids = table["image_id"].to_pylist()
        bad = pa.array(["../../../x" if i == ids[0] else i for i in ids])
        table = table.set_column(column, table.schema.field("image_id"), bad)
        object.__setattr__(plan, name, table)
    plan.save(root / "plan")
    vouch(root)
    with pytest.raises(StoreError, match="an image id is not a plain name"):
        convert(root, tmp_path / "dest", wanted="webdataset")


def test_a_lost_manifest_is_restored_from_its_spare(root, tiny_store, tiny_coco, tiny_checkpoints):
    (root / "manifest.json").unlink()
    with pytest.raises(StoreError, match=r"run `lens-cache verify STORE --repair`"):
        extracted(root, settings(tiny_coco, tiny_checkpoints))
    repair_store(root, (), Quiet(), runner=run_in_process)
    assert_same(root, tiny_store)
    for name in ("manifest.json", "runs/manifest.json"):
        (root / name).unlink()
    with pytest.raises(StoreError, match=r"put it back, or extract into a new store"):
        extracted(root, settings(tiny_coco, tiny_checkpoints))


def test_names_with_escape_sequences_do_not_reach_the_terminal(
    tmp_path, tiny_checkpoints, lens_cache
):
    data = own_data(tmp_path / "data", photos(2))
    lines = (data.root / "data.jsonl").read_text().splitlines()
    entry = {**json.loads(lines[0]), "split": "\x1b]0;owned\x07\x9b31m", "image": "1.png"}
    bad = {**entry, "image": "\x1b[2Jgone.png"}
    (data.root / "data.jsonl").write_text("\n".join([*lines, json.dumps(entry), json.dumps(bad)]))
    extracted(tmp_path / "s", settings(data, tiny_checkpoints))
    code, out, err = lens_cache("inspect", tmp_path / "s")
    assert code == 0
    assert r"\x1b]0;owned\x07\x9b31m" in out
    assert not {"\x1b", "\x07", "\x9b"} & set(out + err)
    code, out, err = lens_cache("plan", tmp_path / "t", "--set", "data.kind=jsonl", "--set",
                                f"data.root={data.root}")  # fmt: skip
    assert not {"\x1b", "\x07", "\x9b"} & set(out + err)
    assert code == 0


def test_printable_keeps_words_of_every_language():
    assert printable("Größe 猫 🐈\tx\ny") == "Größe 猫 🐈\tx\ny"
    assert one_line(ValueError("a\x1b[31m\nb")) == r"a\x1b[31m b"
