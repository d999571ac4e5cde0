"""What is read whole when a store is opened is checked then; damage is one line."""

import shutil

import pytest

from lens_cache.errors import LensCacheError
from lens_cache.features.frozen_parts import FrozenParts
from lens_cache.plan.plan import Plan
from lens_cache.store.store import Store
from lens_cache.store.verify import verify_store
from pipelines.extraction.runners import run_in_process
from pipelines.extraction.verify import repair_store
from tests.support.stores import Quiet, assert_same, copied, flip

READ_WHOLE = [
    "plan/images.parquet",
    "plan/queries.parquet",
    "hidden_states/questions.parquet",
    "frozen/config.json",
    "frozen/decoder_layers_4.safetensors",
    "frozen/sam.safetensors",
    "hidden_states/layer_4/prefix/c/0/0",
]


def read_all(root):
    store = Store(root)
    store.frozen()
    store.prefix(4)


@pytest.mark.parametrize("name", READ_WHOLE)
def test_damage_is_one_line_wherever_it_is(tmp_path, tiny_store, name):
    size = (tiny_store / name).stat().st_size
    for number, at in enumerate((0, 9, size // 3, size // 2, size - 9)):
        root = copied(tiny_store, tmp_path / str(number))
        flip(root / name, at=at, bits=0x80)
        with pytest.raises(LensCacheError, match="does not match its checksum") as error:
            read_all(root)
        assert "\n" not in str(error.value)
        assert "verify STORE --repair" in str(error.value)
        assert [name in problem.what for problem in verify_store(root).problems] == [True]
        shutil.rmtree(root)


def test_one_repair_mends_a_damaged_plan_and_what_it_hid(tmp_path, tiny_store):
    root = copied(tiny_store, tmp_path / "s")
    flip(root / "plan/queries.parquet")
    flip(root / "image_embeddings/c/1/0/0/0")
    repair_store(root, (), Quiet(), runner=run_in_process)
    assert verify_store(root).problems == []
    assert_same(root, tiny_store)


def test_an_unrecorded_plan_with_any_bit_flipped_is_read_or_refused(tiny_store):
    """Plans of older versions have no record: nothing but our own error may come of them."""
    files = {path.name: path.read_bytes() for path in (tiny_store / "plan").glob("*.parquet")}
    data, refused = files["queries.parquet"], 0
    for at in range(0, len(data), 5):
        bad = bytearray(data)
        bad[at] ^= 0x80
        try:
            Plan.from_files(files | {"queries.parquet": bytes(bad)}).digest()
        except LensCacheError:
            refused += 1
    assert refused > len(data) // 10


@pytest.mark.parametrize("name", ["config.json", "sam.safetensors", "decoder_layers_4.safetensors"])
def test_frozen_weights_without_a_record_that_are_no_such_file_are_one_line(
    tmp_path, tiny_store, name
):
    folder = shutil.copytree(tiny_store / "frozen", tmp_path / "frozen")
    for content in (b"", b"{}", b"\xff" * 40):
        (folder / name).write_bytes(content)
        with pytest.raises(LensCacheError, match=r"frozen weights of a store: .* is damaged"):
            FrozenParts.load(folder)
