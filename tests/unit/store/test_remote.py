"""Where a store may lie, and writing to what is no disk; ``memory://`` stands for any URL."""

import os
import uuid
from pathlib import Path

import fsspec
import numpy as np
import pytest

from lens_cache.errors import CorruptShardError, StoreError
from lens_cache.store.io.files import (
    append_line,
    has_folder,
    new_folder,
    read_json,
    remove_folder,
    write_json,
)
from lens_cache.store.io.lock import writer_lock
from lens_cache.store.io.remote import is_remote, put, store_path
from lens_cache.store.io.uploads import pending_file
from lens_cache.store.manifest import Manifest
from lens_cache.store.store import Store
from lens_cache.store.zarr.shard_file import ShardWriter, open_shard
from tests.support.s3 import BUCKET, led_to, objects, proxy, uploads
from tests.support.stores import contents, extracted, settings


@pytest.fixture
def root():
    """A place in this process's memory, behind a URL."""
    path = store_path(f"memory://tests/{uuid.uuid4().hex}")
    yield path
    remove_folder(path)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("runs/store", Path("runs/store")),
        ("/data/a:b", Path("/data/a:b")),
        ("file:///data/store", Path("/data/store")),
        ("C", Path("C")),
    ],
)
def test_what_is_no_url_is_a_path_of_the_disk(text, expected):
    assert store_path(text) == expected
    assert not is_remote(store_path(text))


def test_a_url_keeps_its_two_slashes_on_every_way(monkeypatch):
    path = store_path("s3://bucket/a/store/")
    assert is_remote(path)
    assert [str(path), str(store_path(path)), str(path / "plan")] == [
        "s3://bucket/a/store",
        "s3://bucket/a/store",
        "s3://bucket/a/store/plan",
    ]
    # A shell or a Path that has eaten a slash.
    assert str(store_path(Path("s3://bucket/a/store"))) == "s3://bucket/a/store"


@pytest.mark.parametrize("url", ["s3://key:word@bucket/store", "s3://bucket/store?token=word"])
def test_a_url_with_a_secret_in_it_is_refused_without_repeating_it(url):
    with pytest.raises(StoreError, match="AWS_ACCESS_KEY_ID") as caught:
        store_path(url)
    assert "word" not in str(caught.value)


def test_an_unknown_protocol_and_a_missing_package_say_what_to_do(monkeypatch):
    with pytest.raises(StoreError, match="found nonsense://"):
        store_path("nonsense://bucket/store")

    def missing(name, *_):
        raise ImportError("Install s3fs to access S3")

    monkeypatch.setattr(fsspec, "get_filesystem_class", missing)
    with pytest.raises(StoreError, match=r"run `pip install lens-cache\[s3\]`") as caught:
        store_path("s3://bucket/store")
    assert "\n" not in str(caught.value)


def test_a_whole_store_in_memory(root, tiny_store, tiny_coco, tiny_checkpoints):
    extracted(root, settings(tiny_coco, tiny_checkpoints))
    theirs = contents(tiny_store)
    for name, data in theirs.items():
        if name != ".lock":
            assert (root / name).read_bytes() == data, name
    ours, disk = Store(root).read(3, [4], 4), Store(tiny_store).read(3, [4], 4)
    assert np.array_equal(ours.image_tokens, disk.image_tokens)
    assert np.array_equal(ours.text_tokens[0], disk.text_tokens[0])


def test_what_is_not_there_is_named(root):
    with pytest.raises(StoreError, match=r"opening the store memory://\S+: there is no manifest"):
        Manifest.load(root)
    with pytest.raises(StoreError, match=r"^reading: memory://\S+/a.json: "):
        read_json(root / "a.json", purpose="reading")
    with pytest.raises(CorruptShardError, match="no such object"):
        open_shard(root / "c", num_chunks=1)


def test_sealed_documents_and_logs(root):
    write_json(root, root / "deep/a.json", {"a": 1})
    assert read_json(root / "deep/a.json", purpose="reading") == {"a": 1}
    (root / "deep/a.json").write_bytes((root / "deep/a.json").read_bytes() + b" ")
    with pytest.raises(CorruptShardError):
        read_json(root / "deep/a.json", purpose="reading")
    append_line(root / "log", "one")
    append_line(root / "log", "two")
    assert (root / "log").read_bytes() == b"one\ntwo\n"


def test_a_folder_is_there_when_its_last_file_is(root, tmp_path):
    for place in (root, tmp_path):
        with pytest.raises(ZeroDivisionError), new_folder(place, place / "f", last="a") as scratch:  # noqa: PT012
            (scratch / "a").write_text("a")
            raise ZeroDivisionError
        assert not has_folder(place / "f", last="a")
        with new_folder(place, place / "f", last="a") as scratch:
            (scratch / "a").write_text("a")
            (scratch / "b").write_text("b")
        assert has_folder(place / "f", last="a")
        assert (place / "f/b").read_text() == "b"
    remove_folder(root / "f")
    (root / "f/b").write_bytes(b"half of it")
    assert not has_folder(root / "f", last="a")


def test_an_error_in_the_program_is_not_blamed_on_the_storage(root):
    with pytest.raises(ZeroDivisionError), writer_lock(root):
        raise ZeroDivisionError
    assert not (root / ".lease").exists()


# Uploading in parts, to a real server


def test_a_large_shard_goes_up_in_parts_and_appears_at_the_end(s3):
    root = store_path(f"s3://{BUCKET}/unit/parts")
    chunks = [os.urandom(6 << 20) for _ in range(7)]
    with ShardWriter(root, root / "c", num_chunks=8) as writer:
        for number, data in enumerate(chunks):
            writer.write(number, data)
        assert uploads() == ["unit/parts/c"]
        assert not (root / "c").exists()
        writer.publish()
    assert uploads() == []
    assert (root / "c").stat().st_size == writer.size
    reader = open_shard(root / "c", num_chunks=8)
    for number, data in enumerate(chunks):
        assert reader.chunk(number).tobytes() == data
    assert reader.chunk(3, slice(5, 1000)).tobytes() == chunks[3][5:1000]
    assert reader.chunk(7) is None


def test_a_failed_shard_leaves_no_object_and_no_upload(s3):
    root = store_path(f"s3://{BUCKET}/unit/failed")
    with pytest.raises(ZeroDivisionError), ShardWriter(root, root / "c", num_chunks=4) as writer:  # noqa: PT012
        for number in range(4):
            writer.write(number, bytes(6 << 20))
        assert uploads()
        raise ZeroDivisionError
    assert uploads() == []
    assert objects(str(root)) == {}


def once(choose):
    """Return a rule that holds for the first request of a kind only."""
    seen = []

    def rule(command, path):
        if choose(command, path) and not seen:
            seen.append(path)
            return True
        return False

    return rule


@pytest.mark.parametrize("kind", ["late", "drop", "500"])
def test_an_upload_whose_last_answer_is_lost_is_there(s3, kind):
    """Asked again, the server does not know the finished upload any more."""
    with proxy(s3, share=1.0, kinds=(kind,)) as bad, led_to(bad.url):
        bad.only = once(lambda command, path: command == "POST" and "uploadId=" in path)
        root = store_path(f"s3://{BUCKET}/unit/lost-{kind}")
        with ShardWriter(root, root / "c", num_chunks=1) as writer:
            writer.write(0, b"1234")
            writer.publish()
        assert bad.spoilt == {kind: 1}
    assert set(objects(str(root))) == {"c"}
    assert uploads() == []


def test_an_upload_that_was_aborted_is_not_taken_for_done(s3):
    """Even where an older object of the same size lies in its place."""
    root = store_path(f"s3://{BUCKET}/unit/aborted")
    put(root / "c", b"old")
    with proxy(s3, share=1.0, kinds=("404",)) as bad, led_to(bad.url):
        bad.only = lambda command, path: command == "POST" and "uploadId=" in path
        final = store_path(f"{root}/c")
        upload = pending_file(root, final)
        upload.write(b"new")
        with pytest.raises(FileNotFoundError):
            upload.publish()
        upload.discard()
    assert objects(str(root)) == {"c": b"old"}
    assert uploads() == []


@pytest.mark.parametrize("kind", ["late", "drop", "500"])
def test_a_lease_whose_answer_is_lost_is_held(s3, kind):
    """Asked again, the server says that there is one: ours."""
    with proxy(s3, share=1.0, kinds=(kind,)) as bad, led_to(bad.url):
        bad.only = once(lambda command, path: command == "PUT" and ".lease" in path)
        root = store_path(f"s3://{BUCKET}/unit/lease-{kind}")
        with writer_lock(root) as require:
            require()
            assert set(objects(str(root))) == {".lease/00000001.json"}
        assert bad.spoilt == {kind: 1}
    assert objects(str(root)) == {}


def test_a_draw_costs_one_request_a_piece(s3, tiny_coco, tiny_checkpoints):
    """Image tokens, embedding and the questions side by side; index and prefix only once."""
    url = f"s3://{BUCKET}/unit/requests"
    extracted(store_path(url), settings(tiny_coco, tiny_checkpoints))
    with proxy(s3, share=0.0) as counter, led_to(counter.url):
        store = Store(store_path(url))
        store.read(0, list(store.plan.query_range(0)), 4)
        counter.requests.clear()
        queries = list(store.plan.query_range(1))
        store.read(1, queries, 4)
        assert len(queries) > 2
        assert counter.requests == {"GET": 3}
        counter.requests.clear()
        store.read(1, [queries[0], queries[2]], 4)
        assert counter.requests == {"GET": 4}


@pytest.mark.parametrize("damage", ["truncated", "index", "empty"])
def test_a_damaged_remote_index_is_refused(root, damage):
    with ShardWriter(root, root / "c", num_chunks=2) as writer:
        writer.write(0, bytes(range(64)))
        writer.publish()
    data = bytearray((root / "c").read_bytes())
    if damage == "index":
        data[70] ^= 1
    kept = {"truncated": data[:-7], "index": data, "empty": b""}[damage]
    (root / "c").write_bytes(bytes(kept))
    with pytest.raises(CorruptShardError, match="reading the shard memory://"):
        open_shard(root / "c", num_chunks=2)
