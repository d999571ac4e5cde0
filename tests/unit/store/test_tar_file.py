import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
import webdataset
from hypothesis import given, settings
from hypothesis import strategies as st

from lens_cache.errors import CorruptShardError
from lens_cache.store.io.files import crc32c_of_file
from lens_cache.store.webdataset.samples import npy_header
from lens_cache.store.webdataset.tar_file import TarReader, TarWriter

names = st.lists(st.from_regex(r"[a-z0-9]{1,8}(\.[a-z0-9]{1,6}){1,2}", fullmatch=True), unique=True)


def written(root, members):
    final = root / "samples/a.tar"
    with TarWriter(root, final) as writer:
        for name, data in members.items():
            writer.add(name, data[:3], data[3:])
        writer.publish()
    assert (writer.crc, writer.size) == crc32c_of_file(final)
    return final


@settings(deadline=None, max_examples=30)
@given(data=st.data(), members=names)
def test_what_is_written_is_read_here_and_by_tar_itself(tmp_path_factory, data, members):
    root = tmp_path_factory.mktemp("tar")
    content = {name: data.draw(st.binary(max_size=1500)) for name in members}
    path = written(root, content)
    reader = TarReader(path)
    assert reader.names() == list(content)
    assert {name: reader.member(name).tobytes() for name in content} == content
    with tarfile.open(path, "r:") as tar:
        assert {member.name: tar.extractfile(member).read() for member in tar} == content
    assert path.stat().st_size % tarfile.RECORDSIZE == 0


def hostile(path, **fields):
    """Write a tar with the standard library: a good member, then one of another kind."""
    info = tarfile.TarInfo(fields.pop("name", "b.npy"))
    data = b"" if "type" in fields else b"data"
    info.size = len(data)
    for field, value in fields.items():
        setattr(info, field, value)
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        good = tarfile.TarInfo("a.npy")
        good.size = 4
        tar.addfile(good, io.BytesIO(b"data"))
        tar.addfile(info, io.BytesIO(data))
    return path


@pytest.mark.parametrize(
    ("fields", "found"),
    [
        ({"name": "../b.npy"}, "plain relative names"),
        ({"name": "a/../../b.npy"}, "plain relative names"),
        ({"name": "/etc/passwd"}, "plain relative names"),
        ({"name": "a/./b.npy"}, "plain relative names"),
        ({"name": "a\nb.npy"}, "plain relative names"),
        ({"type": tarfile.SYMTYPE, "linkname": "/etc/passwd"}, "plain files"),
        ({"type": tarfile.LNKTYPE, "linkname": "a.npy"}, "plain files"),
        ({"type": tarfile.DIRTYPE}, "plain files"),
        ({"type": tarfile.FIFOTYPE}, "plain files"),
        ({"type": tarfile.CHRTYPE}, "plain files"),
        ({"type": tarfile.XHDTYPE}, "plain files"),
        ({"type": tarfile.GNUTYPE_LONGNAME}, "plain files"),
        ({"type": tarfile.GNUTYPE_SPARSE}, "plain files"),
        ({"name": "a.npy"}, "twice"),
    ],
)
def test_hostile_members_are_refused(tmp_path, fields, found):
    path = hostile(tmp_path / "a.tar", **fields)
    with pytest.raises(CorruptShardError, match=rf"reading the tar .*a\.tar: .*{found}") as caught:
        TarReader(path)
    assert "\n" not in str(caught.value)
    assert [file.name for file in tmp_path.iterdir()] == ["a.tar"]


@settings(deadline=None, max_examples=60)
@given(data=st.data())
def test_every_cut_and_every_flip_of_a_header_is_noticed(tmp_path_factory, data):
    root = tmp_path_factory.mktemp("tar")
    path = written(root, {"a.json": b"{}", "a.npy": bytes(range(256)) * 3})
    good = path.read_bytes()
    headers = [*range(148), *range(1024, 1024 + 148)]
    if data.draw(st.booleans()):
        # All but the last record may go; of that one only padding, which nothing reads.
        bad = good[: data.draw(st.integers(0, 1024 + 512 + 1024 + 1023))]
    else:
        at = data.draw(st.sampled_from(headers))
        bad = bytearray(good)
        bad[at] ^= 1 << data.draw(st.integers(0, 7))
    path.write_bytes(bad)
    with pytest.raises(CorruptShardError, match=r"a\.tar"):
        TarReader(path)


def test_what_stands_behind_the_end_is_refused(tmp_path):
    path = written(tmp_path, {"a.npy": b"1234"})
    path.write_bytes(path.read_bytes() + path.read_bytes())
    with pytest.raises(CorruptShardError, match="end of the archive"):
        TarReader(path)


def test_nothing_stays_without_publish(tmp_path):
    with TarWriter(tmp_path, tmp_path / "a.tar") as writer:
        writer.add("a.npy", b"1234")
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_nothing_stays_when_the_disk_is_full(tmp_path):
    writer = TarWriter(tmp_path, tmp_path / "a.tar")
    writer._file._file.close()
    (name,) = (tmp_path / "tmp").iterdir()
    with Path("/dev/full").open("wb") as full, pytest.raises(OSError, match="No space"), writer:  # noqa: PT012
        writer._file._file = full
        writer.add("a.npy", b"1234")
    assert not name.exists()


@pytest.mark.parametrize("shape", [(3, 4), (1, 1, 1), (576, 4096), (7,)])
@pytest.mark.parametrize(
    ("ours", "numpys"), [("float32", "<f4"), ("float16", "<f2"), ("bfloat16", "<u2")]
)
def test_numpy_opens_what_stands_behind_our_header(shape, ours, numpys):
    values = (np.arange(int(np.prod(shape))) % 1000).astype(numpys).reshape(shape)
    header = npy_header(shape, ours)
    assert len(header) % 64 == 0
    read = np.load(io.BytesIO(header + values.tobytes()), allow_pickle=False)
    np.testing.assert_array_equal(read, values)
    assert read.dtype == np.dtype(numpys)


def test_webdatasets_writer_would_write_the_same_tar(tmp_path):
    members = {"a.json": b"{}", "a.x.npy": b"x" * 5000, "b.json": b"[]", "b.x.npy": b"y" * 513}
    with TarWriter(tmp_path, tmp_path / "ours.tar") as ours:
        for name, data in members.items():
            ours.add(name, data[:100], data[100:])
        ours.publish()
    plain = {"user": "", "group": "", "mode": 0o644, "mtime": 0, "encoder": False}
    with webdataset.TarWriter(str(tmp_path / "theirs.tar"), **plain) as theirs:
        for name, data in members.items():
            key, _, suffix = name.partition(".")
            theirs.write({"__key__": key, suffix: data})
    assert (tmp_path / "ours.tar").read_bytes() == (tmp_path / "theirs.tar").read_bytes()
