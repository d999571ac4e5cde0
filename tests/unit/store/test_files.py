import json
import os
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lens_cache.errors import CorruptShardError, StoreError
from lens_cache.store.io import files
from lens_cache.store.io.files import (
    crc32c,
    crc32c_of_file,
    publish,
    read_json,
    sweep_temporary,
    temporary_path,
    write_bytes,
    write_json,
)
from lens_cache.store.io.lock import writer_lock

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
documents = st.dictionaries(st.text().filter(lambda key: key != "crc32c"), values, max_size=4)


@settings(deadline=None, max_examples=50)
@given(document=documents, data=st.data())
def test_any_flipped_bit_of_a_sealed_document_is_noticed(tmp_path_factory, document, data):
    root = tmp_path_factory.mktemp("files")
    path = root / "a/b.json"
    write_json(root, path, document)
    assert read_json(path, purpose="reading") == document
    good = path.read_bytes()
    at = data.draw(st.integers(0, len(good) - 1))
    bit = data.draw(st.integers(0, 7))
    path.write_bytes(good[:at] + bytes([good[at] ^ (1 << bit)]) + good[at + 1 :])
    with pytest.raises(CorruptShardError, match=r"^reading: .*b.json does not match its checksum"):
        read_json(path, purpose="reading")


@pytest.mark.parametrize("content", [b"", b"[]", b"3", b"{}", b'{"a": 1}', b"\xff", b"null"])
def test_what_was_never_sealed_is_refused(tmp_path, content):
    path = tmp_path / "a.json"
    path.write_bytes(content)
    with pytest.raises(CorruptShardError):
        read_json(path, purpose="reading")


def test_a_truncated_or_longer_document_is_refused(tmp_path):
    path = tmp_path / "a.json"
    write_json(tmp_path, path, {"a": [1, 2], "b": "c"})
    good = path.read_bytes()
    for bad in (good[:-1], good + b"\n", good.replace(b"\n", b"\r\n"), b" " + good):
        path.write_bytes(bad)
        with pytest.raises(CorruptShardError):
            read_json(path, purpose="reading")


def test_equal_documents_are_equal_bytes(tmp_path):
    write_json(tmp_path, tmp_path / "a", {"b": 1, "a": {"d": 2, "c": 3}})
    write_json(tmp_path, tmp_path / "b", {"a": {"c": 3, "d": 2}, "b": 1})
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert json.loads((tmp_path / "a").read_bytes())["b"] == 1


def test_a_missing_document_is_named(tmp_path):
    with pytest.raises(StoreError, match=r"^opening: .*a.json: No such file"):
        read_json(tmp_path / "a.json", purpose="opening")


def test_write_bytes_replaces_whole_and_leaves_nothing(tmp_path):
    final = tmp_path / "deep/er/file"
    write_bytes(tmp_path, final, b"old")
    with final.open("rb") as opened:
        write_bytes(tmp_path, final, b"new and longer")
        assert opened.read() == b"old"
    assert final.read_bytes() == b"new and longer"
    assert list((tmp_path / "tmp").iterdir()) == []


def test_a_write_killed_in_the_middle_leaves_the_old_file(tmp_path):
    write_bytes(tmp_path, tmp_path / "file", b"old")
    script = f"""
import os
from pathlib import Path
import lens_cache.store.io.files as files
files.os.fsync = lambda *_: os._exit(9)
files.write_bytes(Path({str(tmp_path)!r}), Path({str(tmp_path)!r}) / "file", b"new")
"""
    assert subprocess.run([sys.executable, "-c", script]).returncode == 9
    assert (tmp_path / "file").read_bytes() == b"old"
    assert len(list((tmp_path / "tmp").iterdir())) == 1
    sweep_temporary(tmp_path)
    assert not (tmp_path / "tmp").exists()
    sweep_temporary(tmp_path)


def test_folders_are_published_whole(tmp_path):
    temporary = temporary_path(tmp_path)
    temporary.mkdir()
    (temporary / "a").write_text("a")
    publish(temporary, tmp_path / "folder")
    assert (tmp_path / "folder/a").read_text() == "a"
    assert not temporary.exists()


def test_a_second_writer_is_refused_until_the_first_is_gone(tmp_path):
    script = f"""
import sys
from pathlib import Path
from lens_cache.store.io.lock import writer_lock
with writer_lock(Path({str(tmp_path)!r})):
    print("held", flush=True)
    sys.stdin.read()
"""
    holder = subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(StoreError, match="another extraction holds it"), writer_lock(tmp_path):
            pass
    finally:
        holder.kill()
        holder.wait()
        holder.stdin.close()
        holder.stdout.close()
    with writer_lock(tmp_path), pytest.raises(StoreError), writer_lock(tmp_path):
        pass


def test_a_store_below_a_file_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    for place in (tmp_path / "file", tmp_path / "file/store"):
        with pytest.raises(StoreError, match="choose a writable folder"), writer_lock(place):
            pass


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write into every folder")
def test_a_read_only_folder_cannot_be_written(tmp_path):
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(StoreError, match="Permission denied"), writer_lock(tmp_path / "store"):
            pass
    finally:
        tmp_path.chmod(0o700)


def test_crc32c_is_castagnoli(tmp_path):
    assert crc32c(b"123456789") == 0xE3069283
    assert crc32c(memoryview(b"56789"), crc32c(b"1234")) == 0xE3069283
    (tmp_path / "a").write_bytes(b"123456789")
    assert crc32c_of_file(tmp_path / "a") == (0xE3069283, 9)


def test_every_new_folder_is_flushed_to_the_disk(tmp_path, monkeypatch):
    flushed = []
    monkeypatch.setattr(files, "sync_folder", flushed.append)
    (tmp_path / "tmp").mkdir()
    files.write_bytes(tmp_path, tmp_path / "commits/hidden_states/000000.json", b"{}")
    commits = tmp_path / "commits"
    assert flushed == [tmp_path, commits, commits / "hidden_states"]
