"""Images that fail, and images that do not."""

import errno
import json
import shutil
from collections import Counter

import numpy as np
import pytest
import torch
from PIL import Image

from lens_cache.errors import (
    CorruptShardError,
    ExtractionError,
)
from lens_cache.extraction.extractor import ShardExtractor
from lens_cache.extraction.recompute import recompute
from lens_cache.images.decode import content_id, read_image
from lens_cache.images.files import patiently, read_image_file
from lens_cache.store.quarantine import Quarantine, quarantined
from lens_cache.store.store import Store
from lens_cache.store.verify import verify_store
from pipelines.extraction.extract import plan_store
from tests.support.data import own_data, photos, truncated
from tests.support.pictures import colours, encoded, rotated
from tests.support.stores import (
    Quiet,
    assert_same,
    extracted,
    settings,
    stamps,
)


def test_a_broken_image_is_set_aside_and_the_run_goes_on(tmp_path, tiny_checkpoints):
    pictures = photos(5)
    pictures["2.png"] = truncated()
    data = own_data(tmp_path / "data", pictures)
    reporter = Quiet()
    summary = extracted(tmp_path / "s", settings(data, tiny_checkpoints), reporter=reporter)
    assert {(q.group, q.path, q.stage) for q in summary.quarantined} == {
        ("hidden_states", "2.png", "read"),
        ("image_embeddings", "2.png", "read"),
    }
    assert any(
        "quarantined 2.png: hidden_states: cannot be decoded" in m for m in reporter.messages
    )
    store = Store(tmp_path / "s")
    assert (store.num_quarantined, store.images(None)) == (1, [0, 1, 3, 4])
    assert verify_store(tmp_path / "s").problems == []
    with pytest.raises(CorruptShardError, match="found 0"):
        store.read(2, [2], 4)
    # The others are as if it had not been there.
    pictures.pop("2.png")
    extracted(tmp_path / "t", settings(own_data(tmp_path / "d2", pictures), tiny_checkpoints))
    other = Store(tmp_path / "t")
    for ours, theirs in ((0, 0), (1, 1), (3, 2), (4, 3)):
        a, b = store.read(ours, [ours], 4), other.read(theirs, [theirs], 4)
        assert torch.equal(a.image_tokens, b.image_tokens)
        assert torch.equal(a.text_tokens[0], b.text_tokens[0])
        assert torch.equal(a.image_embedding, b.image_embedding)


def test_an_image_changed_or_gone_since_the_plan_is_set_aside(tmp_path, tiny_checkpoints):
    data = own_data(tmp_path / "data", photos(5))
    config, root = settings(data, tiny_checkpoints), tmp_path / "s"
    plan_store(root, config, Quiet())
    (tmp_path / "data/1.png").write_bytes(encoded(colours(40, 30, seed=77)))
    (tmp_path / "data/3.png").unlink()
    found = extracted(root, config).quarantined
    reasons = {record.path: record.reason for record in found}
    assert "changed since it was planned" in reasons["1.png"]
    assert "No such file" in reasons["3.png"]


def test_an_image_that_recovers_leaves_quarantine(tmp_path, tiny_checkpoints):
    data = own_data(tmp_path / "data", photos(4))
    config, root = settings(data, tiny_checkpoints), tmp_path / "s"
    plan_store(root, config, Quiet())
    kept = (tmp_path / "data/1.png").rename(tmp_path / "kept.png")
    extracted(root, config)
    assert Store(root).num_quarantined == 1
    kept.rename(tmp_path / "data/1.png")
    assert len(extracted(root, config).quarantined) == 2
    sound = stamps(root)["commits/image_embeddings/000001.json"]
    assert extracted(root, config, retry_quarantined=True).quarantined == []
    assert stamps(root)["commits/image_embeddings/000001.json"] == sound
    extracted(tmp_path / "whole", config)
    assert_same(root, tmp_path / "whole")


def test_pictures_of_every_kind_are_extracted(tmp_path, tiny_checkpoints):
    rgb = colours(40, 30)
    pictures = {
        "cmyk.jpg": encoded(Image.fromarray(rgb).convert("CMYK"), "JPEG"),
        "grey.png": encoded(rgb[..., 0]),
        "alpha.png": encoded(Image.fromarray(rgb).convert("RGBA")),
        "palette.gif": encoded(Image.fromarray(rgb).convert("P"), "GIF"),
        "turned.png": rotated(rgb, 6),
        "deep.png": encoded(Image.fromarray(rgb[..., 0].astype(np.uint16) * 257)),
        "pixel.png": encoded(rgb[:1, :1]),
        "long.png": encoded(np.zeros((100, 20000, 3), np.uint8)),
        "tall.png": encoded(np.full((3000, 2, 3), 9, np.uint8)),
    }
    data = own_data(tmp_path / "data", pictures)
    summary = extracted(tmp_path / "s", settings(data, tiny_checkpoints, shard_size=4))
    assert (summary.images, summary.quarantined, summary.skipped.num_rows) == (len(pictures), [], 0)
    store = Store(tmp_path / "s")
    found = recompute(store, settings(data, tiny_checkpoints), 100)
    assert [record for record in found if not record.good] == []


def test_a_mask_of_another_size_is_set_aside_by_the_plan(tmp_path, tiny_checkpoints):
    data = own_data(tmp_path / "data", photos(2))
    wrong = {"rle": {"size": [8, 12], "counts": [0, 96]}}
    with (tmp_path / "data/data.jsonl").open("a") as file:
        line = {"image": "1.png", "instruction": "the wrong one", "mask": wrong}
        file.write("\n" + json.dumps(line))
    summary = extracted(tmp_path / "s", settings(data, tiny_checkpoints))
    assert (summary.queries, summary.skipped.num_rows) == (2, 1)
    (row,) = Store(tmp_path / "s").plan.quarantine.to_pylist()
    assert "12 x 8 pixels, the image 40 x 30" in row["reason"]


def test_a_whole_run_of_failures_stops_it(tmp_path, tiny_checkpoints):
    pictures = photos(1) | {f"bad{n}.png": truncated(seed=n) for n in range(6)}
    data = own_data(tmp_path / "data", pictures)
    config = settings(data, tiny_checkpoints, shard_size=10, max_consecutive_failures=3)
    with pytest.raises(ExtractionError, match=r"stopped after 3 images failed in a row.*bad2.png"):
        extracted(tmp_path / "s", config)
    assert list((tmp_path / "s").glob("commits/[hi]*/*.json")) == []
    assert list((tmp_path / "s").rglob("c/*")) == []
    config = settings(data, tiny_checkpoints, shard_size=10, max_consecutive_failures=7)
    assert len(extracted(tmp_path / "s", config).quarantined) == 12


def test_images_out_of_reach_for_a_while_are_not_lost(tmp_path, tiny_checkpoints, monkeypatch):
    """A whole folder is away, so that shards are committed without images before the run stops."""
    monkeypatch.setattr("lens_cache.images.files.WAITS", ())
    data = own_data(tmp_path / "data", photos(7))
    config = settings(data, tiny_checkpoints, shard_size=2, max_consecutive_failures=4)
    plan_store(tmp_path / "s", config, Quiet())
    for n in range(1, 7):
        (tmp_path / f"data/{n}.png").rename(tmp_path / f"{n}.png")
    with pytest.raises(ExtractionError, match="stopped after 4 images failed in a row"):
        extracted(tmp_path / "s", config)
    for n in range(1, 7):
        (tmp_path / f"{n}.png").rename(tmp_path / f"data/{n}.png")
    assert extracted(tmp_path / "s", config).quarantined == []
    extracted(tmp_path / "whole", config)
    assert_same(tmp_path / "s", tmp_path / "whole")


def test_a_file_that_fails_for_a_moment_is_read_again(tmp_path, tiny_checkpoints, monkeypatch):
    data = own_data(tmp_path / "data", photos(3))
    attempts = Counter()

    def hiccup(root, path):
        attempts[path] += 1
        if attempts[path] in (1, 2, 4, 5):  # twice as it is planned, twice as it is extracted
            raise OSError(errno.EIO, "Input/output error")
        return read_image_file(root, path)

    monkeypatch.setattr("lens_cache.images.files.WAITS", (0, 0))
    monkeypatch.setattr("lens_cache.plan.rows.read_image_file", hiccup)
    monkeypatch.setattr("lens_cache.extraction.image_reader.read_image_file", hiccup)
    summary = extracted(tmp_path / "s", settings(data, tiny_checkpoints))
    assert (summary.images, summary.quarantined) == (3, [])
    assert set(attempts.values()) == {6}


def test_attempts_wait_longer_each_time_and_end():
    waited, tried = [], []

    def fail():
        tried.append(None)
        raise OSError(errno.EIO, "Input/output error")

    with pytest.raises(OSError, match="Input/output error"):
        patiently(fail, sleep=waited.append)
    assert (waited, len(tried)) == ([0.1, 0.4, 1.0], 4)
    with pytest.raises(OSError, match="Input/output error"):
        patiently(fail, final=(OSError,), sleep=waited.append)
    assert len(tried) == 5


def test_a_broken_model_is_not_hidden_by_the_other(tmp_path, tiny_coco, tiny_checkpoints):
    """SAM whose weights are not finite, beside a LLaVA that works."""
    broken = tmp_path / "checkpoints"
    shutil.copytree(tiny_checkpoints, broken)
    state = torch.load(broken / "sam.pth", weights_only=True)
    state["image_encoder.pos_embed"].fill_(torch.nan)
    torch.save(state, broken / "sam.pth")
    config = settings(tiny_coco, broken, max_consecutive_failures=2, shard_size=5)
    with pytest.raises(ExtractionError, match="values that are not finite in image_embeddings"):
        extracted(tmp_path / "s", config)


def test_an_image_that_killed_a_worker_is_not_touched_again(
    tmp_path, tiny_coco, tiny_checkpoints, monkeypatch
):
    config, root = settings(tiny_coco, tiny_checkpoints), tmp_path / "s"
    plan = plan_store(root, config, Quiet())
    poison = plan.image(1)
    for group in ("hidden_states", "image_embeddings"):
        Quarantine(
            group=group, image_id=poison.image_id, path="x", stage="crash", reason="died"
        ).save(root)

    def deadly(data):
        assert content_id(data) != poison.image_id
        return read_image(data)

    monkeypatch.setattr("lens_cache.extraction.image_reader.read_image", deadly)
    extracted(root, config)
    assert set(quarantined(root, "hidden_states")) == {poison.image_id}
    extractor = ShardExtractor(root, config, ("image_embeddings",), "cpu")
    extractor.probe([0, 1, 2], ("image_embeddings",))
