"""Digests of weights are remembered, and a changed file is seen."""

import hashlib
import os
import shutil
import time
from pathlib import Path

import pytest

from lens_cache.encoders import digests
from lens_cache.encoders.checkpoints import weights_digest
from lens_cache.encoders.digests import file_digest

LONG_AGO = time.time() - 3600


@pytest.fixture
def weights(tmp_path, monkeypatch):
    """A file that counts as large and old."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(digests, "_LARGE", 8)
    monkeypatch.setattr(digests, "_settled", lambda state: True)
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"weights of the model")
    os.utime(path, (LONG_AGO, LONG_AGO))
    return path


@pytest.fixture
def hashed(monkeypatch):
    """Names of the files that were read."""
    names = []
    real = hashlib.file_digest

    def digest(file, kind):
        names.append(Path(file.name).name)
        return real(file, kind)

    monkeypatch.setattr(hashlib, "file_digest", digest)
    return names


def sha(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_an_unchanged_file_is_hashed_once(weights, hashed):
    assert file_digest(weights) == file_digest(weights) == weights_digest(weights) == sha(weights)
    assert hashed == ["model.safetensors"]


def grow(path):
    path.write_bytes(path.read_bytes() + b"!")


def overwrite(path):
    """The same length and the same time of the last change, as after ``rsync --times``."""
    path.write_bytes(b"weights of the MODEL")
    os.utime(path, (LONG_AGO, LONG_AGO))


def replace(path):
    """Another file under the same name."""
    other = path.with_name("other")
    other.write_bytes(b"weights of the MODEL")
    os.utime(other, (LONG_AGO, LONG_AGO))
    other.replace(path)


@pytest.mark.parametrize("change", [grow, overwrite, replace])
def test_a_changed_file_is_seen(weights, change):
    before = file_digest(weights)
    change(weights)
    assert file_digest(weights) == sha(weights) != before
    assert file_digest(weights) == sha(weights)


def test_a_copy_elsewhere_is_a_file_of_its_own(weights, hashed, tmp_path):
    file_digest(weights)
    copy = tmp_path / "copy.safetensors"
    shutil.copy2(weights, copy)
    assert file_digest(copy) == sha(weights)
    assert hashed == ["model.safetensors", "copy.safetensors"]


def test_a_small_file_is_not_remembered(weights, hashed, monkeypatch):
    monkeypatch.setattr(digests, "_LARGE", 1000)
    assert file_digest(weights) == file_digest(weights)
    assert not (weights.parent / "cache").exists()
    assert len(hashed) == 2


def test_a_file_just_written_is_not_remembered(tmp_path, hashed, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(digests, "_LARGE", 8)
    path = tmp_path / "sam.pth"
    path.write_bytes(b"weights of the model")
    file_digest(path)
    file_digest(path)
    assert len(hashed) == 2


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b'{"state": 1}', b"\xff"])
def test_a_damaged_memory_is_ignored(weights, content):
    file_digest(weights)
    (kept,) = (weights.parent / "cache").rglob("*.json")
    kept.write_bytes(content)
    assert file_digest(weights) == sha(weights)


def test_where_nothing_can_be_kept_the_file_is_hashed(weights, hashed):
    (weights.parent / "cache").write_text("a file, not a folder")
    assert file_digest(weights) == file_digest(weights) == sha(weights)
    assert len(hashed) == 2
