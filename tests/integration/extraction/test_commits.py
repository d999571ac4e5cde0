"""Commits run in parallel with the models of the next shard."""

import errno
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from lens_cache.errors import (
    ExtractionError,
)
from lens_cache.extraction.extractor import ShardExtractor
from lens_cache.store.commits import commit_path
from lens_cache.store.manifest import Manifest, with_overrides
from lens_cache.store.zarr.writer import GroupShardWriter
from tests.support.stores import (
    assert_same,
    extracted,
    settings,
)


class Gate:
    """Stands before commits: each waits until it is let through, or fails."""

    def __init__(self, monkeypatch):
        self.came, self.errors, self.opened = [], {}, threading.Event()
        real = GroupShardWriter.commit

        def commit(writer, computed):
            shard = writer._commit.shard
            self.came.append(shard)
            assert self.opened.wait(60)
            if shard in self.errors:
                raise self.errors.pop(shard)
            real(writer, computed)

        monkeypatch.setattr(GroupShardWriter, "commit", commit)


@pytest.fixture
def prepared(tmp_path, tiny_coco, tiny_checkpoints, monkeypatch):
    """A store without any shard, and an extractor whose commits wait at a gate."""
    root, config = tmp_path / "s", settings(tiny_coco, tiny_checkpoints)
    with pytest.raises(ExtractionError, match="not committed"):
        extracted(root, config, runner=lambda run, ledger: None)
    absolute = with_overrides(Manifest.load(root))
    gate = Gate(monkeypatch)
    return root, config, ShardExtractor(root, absolute, ("image_embeddings",), "cpu"), gate


def committed_shards(root):
    return [n for n in range(3) if commit_path(root, "image_embeddings", n).exists()]


def test_models_go_on_while_a_shard_is_committed(prepared, tiny_store):
    root, config, extractor, gate = prepared
    first = extractor.extract_ahead(0, ("image_embeddings",))
    assert not first.done()
    assert extractor.images_done == 2
    with ThreadPoolExecutor(1) as pool:
        second = pool.submit(extractor.extract_ahead, 1, ("image_embeddings",))
        until = time.monotonic() + 60
        while extractor.images_done < 4:
            assert time.monotonic() < until
            time.sleep(0.01)
        # The models are through; the second commit waits for the first.
        assert (first.done(), second.done(), committed_shards(root)) == (False, False, [])
        assert set(gate.came) == {0}
        gate.opened.set()
        reports = [first.result(60), second.result(60).result(60)]
    assert [report.shard for report in reports] == [0, 1]
    assert all(report.size > 0 and report.seconds["commit"] > 0 for report in reports)
    assert extractor.images_done == 0
    assert committed_shards(root) == [0, 1]
    extracted(root, config)
    assert_same(root, tiny_store)


def test_a_commit_that_fails_is_its_own_shards_failure(prepared, tiny_store):
    root, config, extractor, gate = prepared
    gate.opened.set()
    gate.errors[0] = OSError(errno.EIO, "broken")
    first = extractor.extract_ahead(0, ("image_embeddings",))
    second = extractor.extract_ahead(1, ("image_embeddings",))
    assert second.result(60).shard == 1
    with pytest.raises(OSError, match="broken"):
        first.result(60)
    assert committed_shards(root) == [1]
    assert not list((root / "image_embeddings").rglob("*.tmp*"))
    assert extractor.extract(0, ("image_embeddings",)).shard == 0
    extracted(root, config)
    assert_same(root, tiny_store)
