"""Stored precision: tokens as bytes, against a slow reference."""

import numcodecs
import numpy as np
import pytest
import torch
import zarr
from hypothesis import given
from hypothesis import strategies as st

from lens_cache.store.layout import hidden_state_arrays, image_embedding_array, in_precision
from lens_cache.store.precision import TokenCode
from lens_cache.store.values import to_bytes, to_tensor
from lens_cache.store.zarr.shard_file import open_shard
from tests.support.stores import write_metadata

LARGEST = {"fp8": 448.0, "int8": 127.0}


def code(precision, channels=64, dtype="bfloat16"):
    return TokenCode(precision=precision, dtype=dtype, channels=channels)


def tokens(rows=5, channels=64, strong=True, seed=0):
    values = torch.randn(rows, channels, generator=torch.Generator().manual_seed(seed))
    if strong:
        values[:, 7] *= 200
    return values.bfloat16()


def slowly(row, precision, strong):
    """One token the plain way: bytes out of numpy, channel by channel."""
    row = row.float().numpy().copy()
    apart = sorted(np.argsort(-np.abs(row), kind="stable")[:strong].tolist())
    kept = row[apart].copy()
    row[apart] = 0
    scale = np.float32(np.abs(row).max() / np.float32(LARGEST[precision])) or np.float32(1)
    if precision == "int8":
        back = np.round(row / scale) * scale
    else:
        steps = torch.arange(256, dtype=torch.uint8).view(torch.float8_e4m3fn).float()
        steps = steps[steps.isfinite()].numpy()
        back = np.array([steps[np.abs(steps - value).argmin()] for value in row / scale]) * scale
    back[apart] = kept
    return torch.from_numpy(back.astype(np.float32)).bfloat16()


@pytest.mark.parametrize("precision", ["fp8", "int8"])
def test_a_token_comes_back_as_a_slow_reference_says(precision):
    made, values = code(precision, 1024), tokens(3, 1024)
    back = made.decode(made.encode(values))
    expected = torch.stack([slowly(row, precision, made.num_outliers) for row in values])
    # Ties of rounding to fp8 may fall to either side.
    same = (back == expected).float().mean()
    assert same > (0.999 if precision == "int8" else 0.98)
    torch.testing.assert_close(back, expected, rtol=0.13, atol=1e-6)


@pytest.mark.parametrize("precision", ["fp8", "int8"])
@given(seed=st.integers(0, 2**31), size=st.floats(1e-6, 1e6), channels=st.sampled_from([1, 3, 64]))
def test_no_value_is_further_off_than_a_step(precision, seed, size, channels):
    made = code(precision, channels, "float32")
    values = torch.randn(4, channels, generator=torch.Generator().manual_seed(seed)) * size
    back = made.decode(made.encode(values))
    rest = values.abs().sort(dim=-1, descending=True).values[:, made.num_outliers :]
    largest = rest[:, :1] if rest.shape[1] else torch.zeros(4, 1)
    step = largest / 127 if precision == "int8" else (values.abs() / 8).clamp(min=largest / 2**17)
    assert ((back - values).abs() <= step * 0.51).all()


def test_the_strongest_channels_of_int8_are_exact_and_do_not_coarsen_the_others():
    values = tokens(8, 1024)
    back = code("int8", 1024).decode(code("int8", 1024).encode(values))
    assert torch.equal(back[:, 7], values[:, 7])
    others = torch.arange(1024) != 7
    error = (back - values)[:, others].norm() / values[:, others].norm()
    assert error < 0.01


def test_zeros_stay_zeros():
    for precision in ("fp8", "int8"):
        made = code(precision)
        assert not made.decode(made.encode(torch.zeros(2, 64).bfloat16())).any()


@pytest.mark.parametrize("precision", ["fp8", "int8"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_a_token_takes_the_bytes_that_are_stated(precision, dtype):
    made = code(precision, 1024, dtype)
    values = tokens(2, 1024).to(getattr(torch, dtype))
    assert made.encode(values).shape == (2, made.token_bytes)
    assert made.decode(made.encode(values)).dtype == getattr(torch, dtype)
    size = {"float32": 4, "bfloat16": 2, "float16": 2}[dtype]
    assert made.token_bytes == 1024 + 4 + (2 * (size + 2) if precision == "int8" else 0)


def test_full_size_tokens_take_half_the_bytes():
    states = code("int8", 4096).token_bytes / (4096 * 2)
    embeddings = code("int8", 256).token_bytes / (256 * 2)
    assert states < 0.505
    assert embeddings < 0.52


@pytest.mark.parametrize("precision", ["fp8", "int8"])
def test_maps_and_rows_keep_their_shape(precision):
    arrays = hidden_state_arrays(
        4,
        num_images=3,
        num_shards=2,
        shard_size=2,
        region=128,
        num_prefix=5,
        num_image_tokens=6,
        hidden_size=64,
        dtype="bfloat16",
    )
    embeddings = image_embedding_array(
        num_images=3, shard_size=2, channels=64, size=4, dtype="bfloat16"
    )
    for spec, values in (
        (arrays["layer_4/image_tokens"], tokens(6)),
        (arrays["layer_4/text_tokens"], tokens(9)),
        (embeddings, tokens(16).T.reshape(64, 4, 4)),
    ):
        stored = in_precision(spec, precision)
        data = to_bytes(values, stored)
        rows = values.shape[0] if not spec.per_image else 1
        assert len(data) == rows * stored.row_bytes
        back = to_tensor(np.frombuffer(data, np.uint8).copy(), stored)
        assert back.is_contiguous()
        if spec.per_image:
            assert back.shape == stored.image_shape
        torch.testing.assert_close(back, values, rtol=0.07, atol=0.1)


# The same encodings as codecs of numcodecs and Zarr


@pytest.mark.parametrize("precision", ["fp8", "int8"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_a_registered_codec_has_the_bytes_and_the_numbers_of_a_store(precision, dtype):
    made = code(precision, 1024, dtype)
    values = tokens(3, 1024).to(getattr(torch, dtype))
    config = {"id": f"lens_cache.{precision}", "channels": 1024, "dtype": dtype}
    codec = numcodecs.get_codec(config)
    plain = values.float().numpy() if dtype == "bfloat16" else values.numpy()
    data = codec.encode(plain)
    assert data.tobytes() == made.encode(values).numpy().tobytes()
    back = made.decode(made.encode(values))
    expected = back.float().numpy() if dtype == "bfloat16" else back.numpy()
    for stored in (data, data.tobytes()):
        found = codec.decode(stored)
        assert found.dtype == expected.dtype
        np.testing.assert_array_equal(found, expected)
    memory = np.empty_like(expected)
    codec.decode(data, out=memory)
    np.testing.assert_array_equal(memory, expected)
    assert codec.get_config() == config


def test_the_bfloat16_codec_rounds_as_torch_does_and_reads_every_bit_pattern():
    codec = numcodecs.get_codec({"id": "lens_cache.bfloat16"})
    values = torch.randn(1000, generator=torch.Generator().manual_seed(0)) * 1e3
    bits = codec.encode(values.numpy())
    assert bits.dtype == np.uint16
    np.testing.assert_array_equal(codec.decode(bits), values.bfloat16().float())
    every = np.arange(2**16, dtype=np.uint16).reshape(256, 256)
    expected = torch.from_numpy(every).view(torch.bfloat16).float()
    np.testing.assert_array_equal(codec.decode(every), expected)


@pytest.mark.parametrize("precision", ["model", "fp8", "int8"])
def test_what_a_zarr_client_writes_are_the_bytes_that_a_store_writes(tmp_path, precision):
    embeddings = image_embedding_array(
        num_images=3, shard_size=2, channels=64, size=4, dtype="bfloat16"
    )
    spec = in_precision(embeddings, precision)
    write_metadata(tmp_path, [spec])
    array = zarr.open_array(tmp_path / spec.path, mode="r+")
    assert (array.shape, array.dtype) == ((3, 64, 4, 4), np.float32)
    assert array.metadata.dimension_names == ("image", "channel", "y", "x")
    values = tokens(48).reshape(3, 4, 4, 64).movedim(-1, 1)
    array[:] = values.float().numpy()
    for shard, images in enumerate(([0, 1], [2])):
        reader = open_shard(tmp_path / spec.object_path(shard), num_chunks=2)
        for place, image in enumerate(images):
            data = reader.chunk(place)
            assert data.tobytes() == to_bytes(values[image], spec)
            decoded = to_tensor(np.array(data), spec).float()
            np.testing.assert_array_equal(zarr.open_array(tmp_path / spec.path)[image], decoded)
