"""Manifests that earlier versions wrote are read as before, and never rewritten differently."""

import shutil
from pathlib import Path

import pytest

from lens_cache.config.extract import PrecisionConfig
from lens_cache.errors import ConfigError, StoreError
from lens_cache.store.io.files import read_json, write_json
from lens_cache.store.manifest import Manifest, with_overrides

# Byte for byte as an extraction of version 0.1.0 wrote it.
WRITTEN = Path(__file__).with_name("manifest_version_1.json")


@pytest.fixture
def root(tmp_path):
    shutil.copyfile(WRITTEN, tmp_path / "manifest.json")
    return tmp_path


def rewritten(root, change):
    """Change the document of a manifest and seal it again."""
    document = read_json(root / "manifest.json", purpose="test")
    change(document)
    write_json(root, root / "manifest.json", document)
    return root


def test_an_old_manifest_is_read_as_typed_sections(root):
    manifest = Manifest.load(root)
    assert (manifest.code_version, manifest.complete, manifest.side) == ("0.1.0", True, 256)
    assert (manifest.store.shard_size, manifest.format) == (2, "zarr")
    assert manifest.precision == PrecisionConfig(hidden_states="int8", image_embeddings="fp8")
    assert manifest.data_root == Path("/data/coco")
    assert manifest.encoders.llava.layers == manifest.layers == (4,)
    assert (manifest.plan.images, manifest.plan.quarantined) == (5, 0)
    assert manifest.specs["layer_4/image_tokens"].code.precision == "int8"
    assert manifest.specs["image_embeddings"].shape == (5, 16, 16, 68)


def test_saving_it_again_writes_the_same_bytes(root):
    Manifest.load(root).save(root)
    assert (root / "manifest.json").read_bytes() == WRITTEN.read_bytes()


def test_a_path_may_be_a_string(root):
    assert Manifest.load(str(root)) == Manifest.load(root)


def test_sections_without_newer_settings_have_their_defaults_and_stay_as_they_are(root):
    def older(document):
        document["config"]["store"] = {"shard_size": 2}
        del document["config"]["data"]["lisa"]

    before = (rewritten(root, older) / "manifest.json").read_bytes()
    manifest = Manifest.load(root)
    assert (manifest.format, manifest.precision) == ("zarr", PrecisionConfig())
    assert manifest.data.lisa.queries_per_draw == 3
    manifest.save(root)
    assert (root / "manifest.json").read_bytes() == before


def test_an_unknown_setting_of_the_data_is_named_when_it_is_needed(root):
    def newer(document):
        document["config"]["data"]["colour"] = "red"
        document["code_version"] = "9.9.9"

    manifest = Manifest.load(rewritten(root, newer))
    assert manifest.store.shard_size == 2
    with pytest.raises(StoreError, match=r"'data'.*colour.*9\.9\.9: use that version") as caught:
        _ = manifest.data
    assert "\n" not in str(caught.value)
    with pytest.raises(ConfigError, match=r"colour"):
        with_overrides(manifest)


def test_an_unknown_layout_is_refused_at_once(root):
    def newer(document):
        document["config"]["store"]["stripes"] = 3

    with pytest.raises(StoreError, match=r"opening the store .*stripes.*use that version"):
        Manifest.load(rewritten(root, newer))


def test_data_without_a_folder_is_named(root):
    def rootless(document):
        document["config"]["data"]["root"] = None

    with pytest.raises(StoreError, match=r"made without data\.root"):
        _ = Manifest.load(rewritten(root, rootless)).data_root
