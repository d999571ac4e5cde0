from pathlib import Path

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from lens_cache.errors import CorruptShardError
from lens_cache.store.io.files import crc32c, crc32c_of_file
from lens_cache.store.layout import ArraySpec
from lens_cache.store.zarr.shard_file import ShardWriter, open_shard
from tests.support.stores import write_metadata


def spec(num_images, shard_size, dtype="float32"):
    return ArraySpec(
        path="group/array",
        shape=(num_images, 2, 3),
        chunk=(1, 2, 3),
        shard=(shard_size, 2, 3),
        dtype=dtype,
        dimensions=("image", "y", "x"),
    )


def write(root, array, values, absent=()):
    """Write an array chunk by chunk in the order given by ``values``."""
    for shard in range(-(-array.shape[0] // array.shard[0])):
        first = shard * array.shard[0]
        final = root / array.object_path(shard)
        with ShardWriter(root, final, num_chunks=array.shard[0]) as writer:
            for chunk in range(min(array.shard[0], array.shape[0] - first)):
                if first + chunk not in absent:
                    data = values[first + chunk].tobytes()
                    assert writer.write(chunk, data) == crc32c(data)
            writer.publish()
            assert (writer.crc, writer.size) == crc32c_of_file(final)


@settings(deadline=None, max_examples=30)
@given(data=st.data(), num_images=st.integers(1, 9), shard_size=st.integers(1, 5))
def test_zarr_reads_what_was_written(tmp_path_factory, data, num_images, shard_size):
    absent = data.draw(st.sets(st.integers(0, num_images - 1)))
    root = tmp_path_factory.mktemp("store")
    array = spec(num_images, shard_size)
    values = np.random.default_rng(0).normal(size=array.shape).astype(np.float32)
    write_metadata(root, [array])
    write(root, array, values, absent)
    read = zarr.open_array(root / array.path, mode="r")
    assert (read.shape, read.dtype, read.chunks, read.shards) == (
        array.shape,
        np.float32,
        array.chunk,
        array.shard,
    )
    values[list(absent)] = 0
    np.testing.assert_array_equal(read[:], values)
    for image in range(num_images):
        shard, chunk = divmod(image, shard_size)
        ours = open_shard(root / array.object_path(shard), num_chunks=shard_size).chunk(chunk)
        if image in absent:
            assert ours is None
        else:
            np.testing.assert_array_equal(ours.view(np.float32).reshape(2, 3), values[image])


def test_our_reader_reads_what_zarr_wrote(tmp_path):
    array = spec(3, 2)
    write_metadata(tmp_path, [array])
    values = np.random.default_rng(1).normal(size=array.shape).astype(np.float32)
    zarr.open_array(tmp_path / array.path, mode="r+")[:] = values
    for image in range(3):
        shard, chunk = divmod(image, 2)
        found = open_shard(tmp_path / array.object_path(shard), num_chunks=2).chunk(chunk)
        np.testing.assert_array_equal(found.view(np.float32).reshape(2, 3), values[image])


def test_nothing_stays_without_publish(tmp_path):
    final = tmp_path / "a/c/0"
    with ShardWriter(tmp_path, final, num_chunks=1) as writer:
        writer.write(0, b"1234")
        assert not final.exists()
    with pytest.raises(ZeroDivisionError), ShardWriter(tmp_path, final, num_chunks=1) as writer:  # noqa: PT012
        writer.write(0, b"1234")
        raise ZeroDivisionError
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_nothing_stays_when_the_disk_is_full(tmp_path):
    """Closing the file fails as writing did; the file goes all the same."""
    writer = ShardWriter(tmp_path, tmp_path / "c", num_chunks=1)
    writer._file._file.close()
    (name,) = (tmp_path / "tmp").iterdir()
    with Path("/dev/full").open("wb") as full, pytest.raises(OSError, match="No space"), writer:  # noqa: PT012
        writer._file._file = full
        writer.write(0, b"1234")
    assert not name.exists()


def test_the_object_appears_whole(tmp_path):
    final = tmp_path / "a/c/0"
    with ShardWriter(tmp_path, final, num_chunks=2) as writer:
        writer.write(1, b"1234")
        writer.publish()
    before = final.read_bytes()
    reader = open_shard(final, num_chunks=2)
    with ShardWriter(tmp_path, final, num_chunks=2) as writer:
        writer.write(0, b"5678")
        assert final.read_bytes() == before
        writer.publish()
    # Who had it open still reads what was there.
    assert reader.chunk(0) is None
    assert reader.chunk(1).tobytes() == b"1234"


@pytest.mark.parametrize("damage", ["truncated", "empty", "index", "missing", "other count"])
def test_a_damaged_index_is_refused(tmp_path, damage):
    final = tmp_path / "c"
    with ShardWriter(tmp_path, final, num_chunks=2) as writer:
        writer.write(0, bytes(range(64)))
        writer.publish()
    data = bytearray(final.read_bytes())
    if damage == "truncated":
        final.write_bytes(data[:-7])
    elif damage == "empty":
        final.write_bytes(b"")
    elif damage == "index":
        data[70] ^= 1
        final.write_bytes(data)
    elif damage == "missing":
        final.unlink()
    with pytest.raises(CorruptShardError, match="reading the shard"):
        open_shard(final, num_chunks=3 if damage == "other count" else 2)
