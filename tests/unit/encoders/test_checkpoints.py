import hashlib
import shutil

import pytest

import lens_cache.encoders.checkpoints as checkpoints
from lens_cache.encoders.checkpoints import (
    pinned_revision,
    resolve_file,
    resolve_folder,
    weights_digest,
)
from lens_cache.errors import CheckpointError


@pytest.fixture
def hub(monkeypatch):
    """Record downloads instead of doing them."""
    calls = []

    class Api:
        def list_repo_files(self, repository, revision=None):
            return ["README.md", "sub/one.pth"] + (["two.pth"] if "many" in repository else [])

    def snapshot(repository, *, revision, allow_patterns):
        calls.append((repository, revision))
        return "/hub/folder"

    def file(repository, name, *, revision):
        calls.append((repository, name, revision))
        return "/hub/file.pth"

    monkeypatch.setattr(checkpoints, "HfApi", Api)
    monkeypatch.setattr(checkpoints, "snapshot_download", snapshot)
    monkeypatch.setattr(checkpoints, "hf_hub_download", file)
    return calls


def refused(call, *words):
    with pytest.raises(CheckpointError) as error:
        call()
    message = str(error.value)
    assert "\n" not in message
    for word in words:
        assert word in message


def test_a_local_folder_needs_no_network(tmp_path, hub, monkeypatch):
    (tmp_path / "owner/name").mkdir(parents=True)
    assert resolve_folder("owner/name", tmp_path) == tmp_path / "owner/name"
    assert resolve_folder(str(tmp_path), None) == tmp_path
    assert resolve_folder(str(tmp_path), tmp_path / "elsewhere") == tmp_path
    monkeypatch.chdir(tmp_path)
    assert resolve_folder("owner/name", None).resolve() == tmp_path / "owner/name"
    assert hub == []


def test_a_local_file_needs_no_network(tmp_path, hub):
    (tmp_path / "sam.pth").write_bytes(b"")
    assert resolve_file("sam.pth", tmp_path) == tmp_path / "sam.pth"
    assert resolve_file(".", tmp_path) == tmp_path / "sam.pth"
    assert resolve_file(str(tmp_path), None) == tmp_path / "sam.pth"
    assert hub == []


def test_hub_ids_are_downloaded(tmp_path, hub):
    assert str(resolve_folder("owner/name", tmp_path, "v1")) == "/hub/folder"
    assert str(resolve_file("owner/name/a/b.pth", None, "v2")) == "/hub/file.pth"
    assert str(resolve_file("owner/name", tmp_path)) == "/hub/file.pth"
    assert hub == [
        ("owner/name", "v1"),
        ("owner/name", "a/b.pth", "v2"),
        ("owner/name", "sub/one.pth", None),
    ]


def test_a_checkpoint_of_the_hub_is_pinned_to_its_commit(tmp_path):
    commit = "0123456789abcdef0123456789abcdef01234567"
    cached = tmp_path / f"models--owner--name/snapshots/{commit}"
    assert pinned_revision("owner/name", None, cached) == commit
    assert pinned_revision("owner/name/a/b.pth", None, cached / "a/b.pth") == commit
    # A local folder that looks like the cache is not of the hub.
    cached.mkdir(parents=True)
    assert pinned_revision(str(cached), None, cached) is None
    assert pinned_revision(".", cached, cached) is None


@pytest.mark.parametrize("checkpoint", ["llava", "/no/such/place", "./a/b", "a/b/c", "../a"])
def test_a_missing_folder_says_what_to_run(tmp_path, hub, checkpoint):
    refused(
        lambda: resolve_folder(checkpoint, tmp_path),
        str(tmp_path / checkpoint),
        "encoders.llava.checkpoint",
        "lens-cache data tiny-checkpoints",
    )
    assert hub == []


@pytest.mark.parametrize("checkpoint", ["sam.pth", "/no/such/sam.pth", "folder/sam.pth", "a/b/c"])
def test_a_missing_file_says_what_to_run(tmp_path, hub, checkpoint):
    refused(
        lambda: resolve_file(checkpoint, tmp_path),
        str(tmp_path / checkpoint),
        "encoders.sam.checkpoint",
        "lens-cache data tiny-checkpoints",
    )
    assert hub == []


def test_a_file_where_a_folder_should_be_is_refused(tmp_path, hub):
    (tmp_path / "llava").write_text("")
    refused(lambda: resolve_folder("llava", tmp_path), "found a file")


def test_several_or_no_files_are_refused(tmp_path, hub):
    refused(lambda: resolve_file(".", tmp_path), "exactly one .pth", "found none")
    for name in ("a.pth", "b.pth"):
        (tmp_path / name).write_bytes(b"")
    refused(lambda: resolve_file(".", tmp_path), "exactly one .pth", "found a.pth, b.pth")
    refused(lambda: resolve_file("many/files", tmp_path), "found sub/one.pth, two.pth")


@pytest.mark.parametrize("error", [OSError("no\nroute"), RuntimeError("boom"), ValueError("bad")])
def test_a_failing_network_is_one_line(tmp_path, monkeypatch, error):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr(checkpoints, "snapshot_download", fail)
    monkeypatch.setattr(checkpoints, "hf_hub_download", fail)
    detail = " ".join(str(error).split())
    refused(lambda: resolve_folder("owner/name", tmp_path), detail, "hub", "tiny-checkpoints")
    refused(lambda: resolve_file("owner/name/a.pth", tmp_path), detail, str(tmp_path))


def test_offline_mode_of_the_hub_library_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    refused(lambda: resolve_folder("owner/name", tmp_path), "hub failed")
    refused(lambda: resolve_file("owner/name/a.pth", tmp_path), "hub failed")
    refused(lambda: resolve_file("owner/name", tmp_path), "hub failed")


def test_digest_of_a_file_is_its_sha256(tmp_path):
    (tmp_path / "sam.pth").write_bytes(b"weights")
    assert weights_digest(tmp_path / "sam.pth") == hashlib.sha256(b"weights").hexdigest()


@pytest.mark.parametrize(
    "name",
    [
        "model.safetensors",
        "config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "processor_config.json",
    ],
)
def test_digest_changes_with_one_flipped_bit(tiny_checkpoints, tmp_path, name):
    folder = tmp_path / "llava"
    shutil.copytree(tiny_checkpoints / "llava", folder)
    before = weights_digest(folder)
    assert before == weights_digest(tiny_checkpoints / "llava")
    content = bytearray((folder / name).read_bytes())
    content[len(content) // 2] ^= 1
    (folder / name).write_bytes(content)
    assert weights_digest(folder) != before


def test_digest_knows_names_and_ignores_the_rest(tiny_checkpoints, tmp_path):
    folder = tmp_path / "llava"
    shutil.copytree(tiny_checkpoints / "llava", folder)
    before = weights_digest(folder)
    (folder / "README.md").write_text("anything")
    (folder / "generation_config.json").unlink()
    assert weights_digest(folder) == before
    (folder / "model.safetensors").rename(folder / "model2.safetensors")
    assert weights_digest(folder) != before


def test_digest_of_nothing_is_refused(tmp_path):
    refused(lambda: weights_digest(tmp_path / "none"), "does not exist")
    refused(lambda: weights_digest(tmp_path), "expected *.safetensors files, found none")
