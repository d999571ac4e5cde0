"""Two extractions give the same bytes, however often they were interrupted; full disks."""

import dataclasses
import errno
import shutil
import subprocess
import sys

import pytest

from lens_cache.errors import (
    ExtractionError,
    StoreError,
    StoreMismatchError,
)
from lens_cache.extraction.extractor import ShardExtractor
from lens_cache.store.commits import commit_path
from lens_cache.store.store import Store
from lens_cache.store.verify import verify_store
from pipelines.extraction.dry_run import dry_run
from tests.support.stores import (
    Quiet,
    assert_same,
    contents,
    copied,
    extracted,
    settings,
    stamps,
)


def test_two_extractions_are_the_same_bytes(tmp_path, tiny_store, tiny_coco, tiny_checkpoints):
    extracted(tmp_path / "s", settings(tiny_coco, tiny_checkpoints, decode_threads=3))
    assert_same(tmp_path / "s", tiny_store)


def test_a_finished_store_is_left_alone(tmp_path, tiny_store, tiny_coco, tiny_checkpoints):
    root = copied(tiny_store, tmp_path / "s")
    before = {name: stamp for name, stamp in stamps(root).items() if "manifest" not in name}
    summary = extracted(root, settings(tiny_coco, tiny_checkpoints))
    assert summary.reports == []
    after = stamps(root)
    moved = [name for name in before if before[name] != after[name]]
    assert [name for name in moved if "/c/" in name or "commits/" in name or "plan/" in name] == []
    assert_same(root, tiny_store)


@pytest.mark.parametrize(
    "lost",
    [
        ["commits/hidden_states/000001.json"],
        ["commits/image_embeddings/000000.json", "commits/hidden_states/000002.json"],
        ["commits", "hidden_states", "image_embeddings"],
        ["commits/shared/000000.json"],
        ["plan"],
        ["frozen"],
        ["hidden_states/questions.parquet", "zarr.json", "commits/shared/000000.json"],
    ],
    ids=lambda lost: "+".join(lost),
)
def test_an_extraction_goes_on_where_it_was(
    tmp_path, tiny_store, tiny_coco, tiny_checkpoints, lost
):
    root = copied(tiny_store, tmp_path / "s")
    for name in lost:
        shutil.rmtree(root / name) if (root / name).is_dir() else (root / name).unlink()
    (root / "tmp").mkdir()
    (root / "tmp/left_by_a_killed_writer").write_bytes(b"half")
    extracted(root, settings(tiny_coco, tiny_checkpoints))
    assert_same(root, tiny_store)


def test_shards_without_a_manifest_are_refused(tmp_path, tiny_store, tiny_coco, tiny_checkpoints):
    root = copied(tiny_store, tmp_path / "s")
    (root / "manifest.json").unlink()
    with pytest.raises(StoreError, match=r"has shards but no manifest\.json"):
        extracted(root, settings(tiny_coco, tiny_checkpoints))
    assert (root / "commits/hidden_states/000000.json").exists()


def test_an_unfinished_store_is_not_opened(tmp_path, tiny_coco, tiny_checkpoints):
    class Stop(Exception):
        pass

    def half(run, ledger):
        extractor = ShardExtractor(run.root, run.config, run.groups, "cpu")
        task = ledger.next()
        run.on_report(extractor.extract(task.shard, task.groups))
        raise Stop

    root, config = tmp_path / "s", settings(tiny_coco, tiny_checkpoints)
    with pytest.raises(Stop):
        extracted(root, config, runner=half)
    with pytest.raises(StoreError, match="has not finished; run the same `lens-cache extract`"):
        Store(root)
    found = verify_store(root)
    assert {(p.group, p.shard) for p in found.problems if p.what == "not extracted yet"} == {
        (group, shard) for group in ("hidden_states", "image_embeddings") for shard in (1, 2)
    }
    reporter = Quiet()
    summary = extracted(root, config, reporter=reporter)
    assert [report.shard for report in summary.reports] == [1, 2]
    assert reporter.steps[-1] == ("extract", 3, 3)


def test_a_lost_commit_closes_the_store_to_readers(
    tmp_path, tiny_store, tiny_coco, tiny_checkpoints
):
    root = copied(tiny_store, tmp_path / "s")
    commit_path(root, "hidden_states", 1).unlink()

    def nothing(run, ledger):
        with pytest.raises(StoreError, match="has not finished"):
            Store(root)

    with pytest.raises(ExtractionError, match=r"1 shards of .* are not committed"):
        extracted(root, settings(tiny_coco, tiny_checkpoints), runner=nothing)


@pytest.mark.parametrize("group", ["hidden_states", "image_embeddings"])
def test_one_group_is_replaced_and_the_other_kept(
    tmp_path, tiny_store, tiny_coco, tiny_checkpoints, group
):
    root = copied(tiny_store, tmp_path / "s")
    before, stamped = contents(root), stamps(root)
    config = settings(tiny_coco, tiny_checkpoints)
    if group == "hidden_states":
        change = dataclasses.replace(config.encoders.llava, layers=(2, 6))
        encoders = dataclasses.replace(config.encoders, llava=change)
    else:
        change = dataclasses.replace(config.encoders.sam, dtype="bfloat16")
        encoders = dataclasses.replace(config.encoders, sam=change)
    config = dataclasses.replace(config, encoders=encoders)
    with pytest.raises(StoreMismatchError, match=f"--replace {group}"):
        extracted(root, config)
    assert contents(root) == before
    summary = extracted(root, config, replace=(group,))
    assert len(summary.reports) == 3
    assert all(("llava" in r.seconds) == (group == "hidden_states") for r in summary.reports)
    after, restamped = contents(root), stamps(root)
    other = {"hidden_states": "image_embeddings", "image_embeddings": "hidden_states"}[group]
    kept = [n for n in before if n.startswith((f"{other}/", f"commits/{other}/")) and "/c/" in n]
    assert kept
    assert all(after[n] == before[n] and restamped[n] == stamped[n] for n in kept)
    extracted(tmp_path / "new", config)
    assert_same(root, tmp_path / "new")
    assert verify_store(root).problems == []


def test_a_full_disk_leaves_nothing_half_written(tmp_path, tiny_store, tiny_coco, tiny_checkpoints):
    """A real limit on the size of files stands for the disk."""
    root = tmp_path / "s"
    script = f"""
import resource, signal, sys
from pathlib import Path
from tests.support.stores import extracted, settings
from pipelines.extraction.runners import run_in_process
def runner(run, ledger):
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, resource.RLIM_INFINITY))
    run_in_process(run, ledger)
try:
    extracted(Path({str(root)!r}), settings(Path({str(tiny_coco)!r}),
              Path({str(tiny_checkpoints)!r})), runner=runner)
except OSError as error:
    sys.exit(error.errno)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == errno.EFBIG, done.stderr
    assert list(root.rglob("c/*")) == []
    assert list(root.glob("commits/[hi]*/*.json")) == []
    assert not (root / "tmp").exists() or list((root / "tmp").iterdir()) == []
    extracted(root, settings(tiny_coco, tiny_checkpoints))
    assert_same(root, tiny_store)


def test_a_folder_that_cannot_be_written_is_named(tmp_path, tiny_coco, tiny_checkpoints):
    (tmp_path / "file").write_text("")
    for place in (tmp_path / "file", tmp_path / "file/store"):
        with pytest.raises(StoreError, match="choose a writable folder"):
            extracted(place, settings(tiny_coco, tiny_checkpoints))


def test_what_does_not_fit_is_refused_unless_told(
    tmp_path, tiny_store, tiny_coco, tiny_checkpoints, monkeypatch
):
    config = settings(tiny_coco, tiny_checkpoints)
    monkeypatch.setattr("lens_cache.store.space.free_bytes", lambda root: 1_000_000)
    assert not dry_run(tmp_path / "s", config, Quiet()).fits
    with pytest.raises(
        StoreError, match=r"67 MB of them as a margin, and \d+ MB are free.*--force"
    ):
        extracted(tmp_path / "s", config)
    assert list((tmp_path / "s").glob("commits/[hi]*/*.json")) == []
    extracted(tmp_path / "s", config, force=True)
    assert_same(tmp_path / "s", tiny_store)
