import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lens_cache.errors import StoreError
from lens_cache.store.layout import (
    PARTS,
    TEXT_CHUNK,
    array_name,
    hidden_state_arrays,
    image_embedding_array,
    part_of,
)
from lens_cache.store.questions import Questions


def laid_out(lengths_per_shard):
    ids, shards, start = [], [], 0
    for lengths in lengths_per_shard:
        shards.append(range(start, start + len(lengths)))
        start += len(lengths)
        ids += [np.arange(length, dtype=np.int32) + 10 * i for i, length in enumerate(lengths)]
    return Questions.lay_out(ids, shards), shards


shapes = st.lists(st.lists(st.integers(1, 200), max_size=8), min_size=1, max_size=5)


@settings(deadline=None)
@given(shapes)
def test_no_two_questions_share_a_row_and_none_leaves_its_region(lengths_per_shard):
    questions, shards = laid_out(lengths_per_shard)
    assert questions.region % TEXT_CHUNK == 0
    assert questions.region >= TEXT_CHUNK
    rows = set()
    for shard, queries in enumerate(shards):
        for query in queries:
            start = int(questions.offsets[query])
            mine = range(start, start + len(questions.token_ids[query]))
            assert shard * questions.region <= mine.start
            assert mine.stop <= (shard + 1) * questions.region
            assert rows.isdisjoint(mine)
            rows.update(mine)
    assert questions.region - TEXT_CHUNK < max(1, *(sum(n) for n in lengths_per_shard))


@settings(deadline=None, max_examples=30)
@given(shapes)
def test_the_table_survives_a_file_and_equal_tables_are_equal_bytes(tmp_path_factory, lengths):
    questions, _ = laid_out(lengths)
    path = tmp_path_factory.mktemp("questions") / "q.parquet"
    path.write_bytes(questions.to_bytes())
    read = Questions.load(path)
    assert read.region == questions.region
    np.testing.assert_array_equal(read.offsets, questions.offsets)
    assert [ids.tolist() for ids in read.token_ids] == [i.tolist() for i in questions.token_ids]
    assert read.to_bytes() == questions.to_bytes() == laid_out(lengths)[0].to_bytes()


@pytest.mark.parametrize("content", [None, b"", b"PAR1nonsensePAR1"])
def test_a_broken_table_is_named(tmp_path, content):
    path = tmp_path / "q.parquet"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(StoreError, match=r"reading the questions of a store, .*q.parquet"):
        Questions.load(path)


def test_one_shard_is_one_object_of_every_array():
    arrays = hidden_state_arrays(
        4,
        num_images=5,
        num_shards=3,
        shard_size=2,
        region=256,
        num_prefix=7,
        num_image_tokens=9,
        hidden_size=8,
        dtype="bfloat16",
    )
    image, text = arrays["layer_4/image_tokens"], arrays["layer_4/text_tokens"]
    assert image.object_path(2) == "hidden_states/layer_4/image_tokens/c/2/0/0"
    assert text.object_path(2) == "hidden_states/layer_4/text_tokens/c/2/0"
    assert (image.chunk_bytes, image.chunks_per_shard) == (9 * 8 * 2, 2)
    assert (text.chunk_bytes, text.chunks_per_shard) == (TEXT_CHUNK * 8 * 2, 2)
    assert text.shape == (3 * 256, 8)
    embeddings = image_embedding_array(
        num_images=5, shard_size=2, channels=3, size=4, dtype="float32"
    )
    assert embeddings.object_path(1) == "image_embeddings/c/1/0/0/0"
    assert embeddings.chunk_bytes == 3 * 4 * 4 * 4


def test_the_name_of_an_array_tells_its_part():
    assert array_name(14, "image_tokens") == "layer_14/image_tokens"
    assert [part_of(array_name(3, part)) for part in PARTS] == list(PARTS)
    assert [part_of(name) for name in ("image_embeddings", "layer_3", "layer_3/other")] == [
        None
    ] * 3
