import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from pipelines import cli
from tests.support import REPOSITORY
from tests.support.pictures import colours, encoded
from tests.support.stores import contents, copied, flip

COMMANDS = [
    [],
    ["plan"],
    ["extract"],
    ["inspect"],
    ["verify"],
    ["convert"],
    ["train"],
    ["evaluate"],
    ["sweep"],
    ["ablations"],
    ["segment"],
    ["export"],
    ["chat"],
    ["serve"],
    ["mcp"],
    ["data"],
    ["data", "tiny-checkpoints"],
    ["data", "shapes"],
    ["data", "check"],
    ["config"],
    ["config", "show"],
    ["config", "docs"],
    ["benchmark"],
    ["benchmark", "extract"],
    ["benchmark", "precision"],
    ["benchmark", "segment"],
    ["benchmark", "store"],
    ["benchmark", "train"],
    ["benchmark", "serve"],
    ["benchmark", "agent"],
    ["demo"],
]
START = "from pipelines.cli import main; main()"


@pytest.fixture
def fails(lens_cache):
    """Run a command that must fail; returns its last line, the only one that is an error."""

    def run(code, *arguments):
        found, out, err = lens_cache(*arguments)
        assert found == code, (found, out, err)
        assert out == ""
        assert "Traceback" not in err
        lines = [line for line in err.splitlines() if line.startswith("lens-cache: ")]
        assert len(lines) == 1, err
        return lines[0]

    return run


def sets(coco, checkpoints, **more):
    words = {
        "data.root": coco,
        "data.split": "train2017",
        "encoders.root": checkpoints,
        "encoders.llava.checkpoint": "llava",
        "encoders.llava.layers": "[4]",
        "encoders.llava.dtype": "float32",
        "encoders.sam.checkpoint": "sam.pth",
        "encoders.sam.dtype": "float32",
        "store.shard_size": 2,
        **more,
    }
    return [part for key, value in words.items() for part in ("--set", f"{key}={value}")]


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory, tiny_store):
    """A run of one step; do not write into it."""
    from lens_cache.config.load import load_config
    from lens_cache.config.train import TrainConfig
    from pipelines.training.train import train

    folder = tmp_path_factory.mktemp("runs") / "run"
    overrides = ["trainer.max_steps=1", "trainer.accelerator=cpu", "trainer.precision=32-true"]
    overrides += ["batch.accumulate=1", "batch.loader_workers=0", "loss.mask_size=32"]
    train(folder, tiny_store, load_config(TrainConfig, None, overrides), resume=False)
    return folder


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_command_has_help(command):
    found = CliRunner().invoke(cli.app, [*command, "--help"])
    assert found.exit_code == 0
    assert "Usage:" in found.output
    assert CliRunner().invoke(cli.app, [*command, "-h"]).output == found.output


def test_help_and_version_are_light():
    for argument in ("--help", "--version"):
        script = (
            "import sys\nfrom pipelines.cli import main\n"
            f"sys.argv = ['lens-cache', {argument!r}]\n"
            "try:\n    main()\nexcept SystemExit as end:\n    assert not end.code\n"
            "heavy = {'torch', 'ray', 'transformers', 'lightning', 'zarr', 'numpy', 'pyarrow'}\n"
            "print('LOADED', sorted(heavy & set(sys.modules)))\n"
        )
        done = subprocess.run(
            [sys.executable, "-c", script], capture_output=True, text=True, cwd=REPOSITORY
        )
        assert "LOADED []" in done.stdout, done.stdout + done.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ["nonsense"],
        ["extract"],
        ["extract", "s", "--replace", "everything"],
        ["verify", "s", "--recompute", "-1"],
        ["train", "run"],
        ["evaluate", "run", "--store", "s"],
        ["segment", "a.png", "it", "--no-such-option"],
        ["config", "show", "nothing"],
    ],
    ids=" ".join,
)
def test_bad_usage_is_exit_code_2(lens_cache, arguments):
    code, out, err = lens_cache(*arguments)
    assert (code, out) == (2, "")
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("override", "complaint"),
    [
        ("data.limit", "--set takes a.b=value, got 'data.limit'"),
        ("data.limit=-3", "data.limit: input should be greater than 0, got -3"),
        ("data.limit=[", "is not a YAML value"),
        (
            "data.limits=3",
            "--set data.limits=3: data.limits: unknown key; did you mean",
        ),
        ("data.limit.x=3", "data.limit: input should be a valid integer"),
        ("nothing.at.all=3", "nothing: unknown key"),
        ("encoders.llava.dtype=int4", "encoders.llava.dtype"),
        ("encoders.llava.layers=[]", "expected distinct layers from 1 to 16, got []"),
        ("encoders.llava.layers=[0]", "encoders.llava.layers.0"),
        ("data.kind=webdataset", "data.kind"),
    ],
)
def test_a_wrong_setting_is_named(
    fails, tmp_path, tiny_coco, tiny_checkpoints, override, complaint
):
    words = sets(tiny_coco, tiny_checkpoints)
    assert complaint in fails(2, "extract", tmp_path / "s", *words, "--set", override)
    assert list(tmp_path.glob("s/plan")) == []


def test_a_wrong_file_of_settings_is_named(fails, tmp_path):
    path = tmp_path / "c.yaml"
    assert "No such file" in fails(2, "extract", tmp_path / "s", "-c", path)
    path.write_text("data: [")
    assert "not valid YAML" in fails(2, "extract", tmp_path / "s", "-c", path)
    path.write_text("dota: {}")
    assert "dota: unknown key" in fails(2, "extract", tmp_path / "s", "-c", path)


def test_wrong_paths_are_named(fails, tmp_path, tiny_coco, tiny_checkpoints, tiny_store):
    store = tmp_path / "s"
    assert "looking for LLaVA" in fails(1, "extract", store, *sets(tiny_coco, tmp_path / "none"))
    line = fails(1, "extract", store, *sets(tmp_path / "none", tiny_checkpoints))
    assert str(tmp_path / "none") in line
    assert "run `lens-cache extract`" in fails(1, "inspect", tmp_path / "none")
    assert "run `lens-cache extract`" in fails(1, "verify", tmp_path / "none")
    assert "no such folder" in fails(1, "train", tmp_path / "r", "--store", tmp_path / "none")
    (tmp_path / "file").write_text("")
    line = fails(1, "extract", tmp_path / "file", *sets(tiny_coco, tiny_checkpoints))
    assert "choose a writable folder" in line
    line = fails(1, "train", tmp_path / "file/run", "--store", tiny_store)
    assert "Not a directory" in line


def test_other_settings_than_the_stores_are_refused(
    fails, tmp_path, tiny_coco, tiny_checkpoints, tiny_store
):
    words = sets(tiny_coco, tiny_checkpoints, **{"encoders.llava.layers": "[5]"})
    line = fails(2, "extract", copied(tiny_store, tmp_path / "s"), *words)
    assert "layers is [4] in the store and [5] here" in line
    assert "--replace hidden_states" in line


def test_missing_runs_splits_and_instructions_are_named(
    fails, tmp_path, run_folder, tiny_store, tiny_coco
):
    picture = tmp_path / "a.png"
    picture.write_bytes(encoded(colours(40, 30)))
    out = ["--run", run_folder, "--out", tmp_path / "out"]
    where = ["--store", tiny_store]
    assert "no config.yaml" in fails(1, "evaluate", tmp_path, *where, "--split", "train2017")
    assert "lens-cache train" in fails(1, "segment", picture, "it", "--run", tmp_path, *out[2:])
    line = fails(1, "evaluate", run_folder, *where, "--split", "val")
    assert "it has train2017" in line
    assert "the instruction is empty" in fails(2, "segment", picture, " ", *out)
    for device in ("gpu", "cuda:99"):
        line = fails(2, "segment", picture, "it", *out, "--device", device)
        assert f"--device {device}: expected a device that PyTorch can use" in line
    picture.write_bytes(b"no image")
    line = fails(1, "segment", picture, "it", *out)
    assert str(picture) in line
    assert "not an image" in line
    assert "no such file" in fails(1, "segment", tmp_path / "none.png", "it", *out)
    empty = tmp_path / "empty"
    empty.mkdir()
    assert "expected images in this folder" in fails(1, "segment", empty, "it", *out)
    assert "expected an instruction" in fails(2, "segment", picture)
    both = ["--run", run_folder, "--model", "shapes"]
    assert "--run or --model, not both" in fails(2, "segment", picture, "it", *both)
    assert "--checkpoint needs --run" in fails(2, "segment", picture, "it", "--checkpoint", "best")
    line = fails(1, "segment", picture, "it", "--model", tmp_path / "nowhere")
    assert "expected a folder, a hub id" in line
    line = fails(2, "chat", "--chat-endpoint", "nonsense")
    assert "expected a URL such as" in line
    assert "already is a run" in fails(2, "train", run_folder, *where)
    assert "the folder of a training run" in fails(1, "train", tmp_path / "new", *where, "--resume")


def test_a_dry_run_writes_nothing_and_its_json_is_one_document(
    lens_cache, tmp_path, tiny_coco, tiny_checkpoints
):
    words = sets(tiny_coco, tiny_checkpoints)
    told = ["--gpus", 2, "--rate", 0.5]
    code, out, _ = lens_cache("extract", tmp_path / "s", *words, "--dry-run", "--json", *told)
    assert code == 0
    document = json.loads(out)
    assert (document["images"], document["shards"], document["fits"]) == (5, 3, True)
    assert document["shards_missing"] == {"hidden_states": 3, "image_embeddings": 3}
    assert document["hours"] == 5 / 3600
    assert document["bytes_per_second"] == document["missing_bytes"] / 5
    code, out, _ = lens_cache("extract", tmp_path / "s", *words, "--dry-run")
    assert (code, out.splitlines()[-1]) == (0, "nothing was written")
    assert list(tmp_path.iterdir()) == []


def test_json_is_one_document_on_stdout(lens_cache, tmp_path, tiny_store, run_folder):
    code, out, _ = lens_cache("inspect", tiny_store, "--json")
    assert (code, json.loads(out)["complete"]) == (0, True)
    code, out, _ = lens_cache("verify", tiny_store, "--recompute", 2, "--json")
    document = json.loads(out)
    assert (code, document["good"], len(document["recomputed"])) == (0, True, 8)
    run = tmp_path / "run"
    shutil.copytree(run_folder, run)
    arguments = ["--store", tiny_store, "--split", "train2017", "--panels", 1, "--json"]
    code, out, _ = lens_cache("evaluate", run, *arguments)
    assert (code, json.loads(out)["images"]) == (0, 5)
    code, out, _ = lens_cache("train", run, "--store", tiny_store, "--resume", "--json")
    assert (code, Path(json.loads(out)["checkpoint"]).exists()) == (0, True)
    picture = tmp_path / "a.png"
    picture.write_bytes(encoded(colours(40, 30)))
    arguments = [picture, "the dog", "--run", run, "--out", tmp_path / "o", "--json"]
    code, out, _ = lens_cache("segment", *arguments)
    assert (code, Path(json.loads(out)["masks"][0]["mask"]).exists()) == (0, True)
    code, out, _ = lens_cache("config", "show", "train", "--json")
    assert (code, json.loads(out)["preset"]) == (0, "paper")
    code, out, _ = lens_cache("config", "show", "train", "--schema")
    assert (code, json.loads(out)["title"]) == (0, "TrainConfig")


def test_a_plan_in_json(lens_cache, tmp_path, tiny_coco, tiny_checkpoints):
    words = ["plan", tmp_path / "s", *sets(tiny_coco, tiny_checkpoints)]
    code, out, _ = lens_cache(*words, "--json")
    document = json.loads(out)
    assert (code, document["images"], document["skipped"]) == (0, 5, [])
    assert document["splits"] == {"train2017": document["queries"]}
    assert lens_cache(*words)[1].startswith("planned 5 images and ")
    code, out, _ = lens_cache("inspect", tmp_path / "s")
    assert (code, "planned 5 images" in out, "nothing is extracted yet" in out) == (0, True, True)
    assert json.loads(lens_cache("inspect", tmp_path / "s", "--json")[1])["complete"] is False


def test_text_is_for_people(lens_cache, tmp_path, tiny_store):
    code, out, _ = lens_cache("inspect", tiny_store)
    assert code == 0
    assert "hidden_states: 3 of 3 shards" in out
    code, out, _ = lens_cache("verify", tiny_store)
    assert (code, out.splitlines()[-1]) == (0, f"{tiny_store}: good")
    code, out, _ = lens_cache("config", "show", "extract")
    assert code == 0
    assert "max_consecutive_failures: 20" in out
    path = tmp_path / "c.yaml"
    path.write_text(out)
    assert lens_cache("config", "show", "extract", "-c", path)[1] == out


def test_a_broken_store_is_exit_code_1_and_named(lens_cache, tmp_path, tiny_store):
    root = copied(tiny_store, tmp_path / "s")
    flip(root / "image_embeddings/c/1/0/0/0", at=3)
    code, out, _ = lens_cache("verify", root)
    assert code == 1
    assert "BROKEN image_embeddings shard 1: image_embeddings/c/1/0/0/0 does not match" in out
    assert "--repair" in out
    code, out, _ = lens_cache("verify", root, "--json")
    assert (code, json.loads(out)["good"]) == (1, False)


def test_a_plan_is_made_without_models(lens_cache, tmp_path, tiny_coco):
    words = ["--set", f"data.root={tiny_coco}", "--set", "data.split=train2017"]
    code, out, _ = lens_cache("plan", tmp_path / "s", *words)
    assert code == 0
    assert "planned 5 images" in out
    before = contents(tmp_path / "s")
    assert lens_cache("plan", tmp_path / "s", *words)[0] == 0
    assert contents(tmp_path / "s") == before


def test_tiny_checkpoints_are_written(lens_cache, fails, tmp_path):
    assert lens_cache("data", "tiny-checkpoints", tmp_path / "t")[0] == 0
    assert (tmp_path / "t/sam.pth").exists()
    line = fails(1, "data", "tiny-checkpoints", tmp_path / "t", "--seed", 3)
    assert "already contains something else" in line


def test_a_world_of_shapes_is_drawn_and_read(lens_cache, fails, tmp_path):
    sizes = ["--train", 3, "--val", 0, "--test", 0, "--hard", 1]
    code, out, _ = lens_cache("data", "shapes", tmp_path / "w", *sizes)
    assert (code, out) == (0, f"{tmp_path / 'w'} has 3 train, 0 val, 0 test, 1 hard\n")
    words = [
        "-c",
        REPOSITORY / "configs/extract/shapes.yaml",
        "--set",
        f"data.root={tmp_path / 'w'}",
    ]
    code, out, _ = lens_cache("plan", tmp_path / "s", *words)
    assert code == 0
    assert out.startswith("planned 4 images and ")
    assert "skipped" not in out
    line = fails(1, "data", "shapes", tmp_path / "w", *sizes, "--seed", 3)
    assert "seed is 0 there and 3 here" in line


def test_training_resumes_with_its_own_settings(lens_cache, tmp_path, tiny_store, run_folder):
    run = tmp_path / "run"
    shutil.copytree(run_folder, run)
    where = ["--store", tiny_store, "--resume"]
    code, out, err = lens_cache("train", run, *where, "--set", "trainer.max_steps=2")
    assert code == 0, err
    assert out.endswith(f"report {run / 'report.html'}\n")
    assert (run / "report.html").exists()
    assert "max_steps: 2" in (run / "config.yaml").read_text()


def test_extracting_from_the_command_line_to_json(
    tmp_path, tiny_store, tiny_coco, tiny_checkpoints
):
    """The whole command in its own process: nothing but the document on stdout."""
    words = sets(tiny_coco, tiny_checkpoints, **{"workers.count": 1})
    done = subprocess.run(
        [sys.executable, "-c", START, "extract", str(tmp_path / "s"), *map(str, words), "--json"],
        capture_output=True,
        text=True,
        cwd=REPOSITORY,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["shards_extracted"] == 3
    assert contents(tmp_path / "s") == contents(tiny_store)


def test_layers_are_probed(lens_cache, fails, tiny_store):
    code, out, _ = lens_cache("probe", tiny_store, "--split", "train2017", "--json")
    found = json.loads(out)
    assert (code, found["images"], len(found["readings"])) == (0, 5, 2)
    code, out, _ = lens_cache("probe", tiny_store)
    assert code == 0
    assert "best: --set model.layer=4" in out
    assert "choosing split 'test'" in fails(1, "probe", tiny_store, "--split", "test")


def test_a_store_is_converted_and_every_command_reads_it(lens_cache, fails, tmp_path, tiny_store):
    tars = tmp_path / "tars"
    code, out, _ = lens_cache("convert", tiny_store, tars, "--format", "webdataset", "--json")
    found = json.loads(out)
    assert (code, found["format"], found["converted"], found["shards"]) == (0, "webdataset", 3, 3)
    code, out, _ = lens_cache("inspect", tars, "--json")
    tar = [path.stat().st_size for path in (tars / "samples").iterdir()]
    found = json.loads(out)
    assert (code, found["format"]) == (0, "webdataset")
    assert found["samples"] == {"tars": 3, "bytes": sum(tar)}
    code, out, _ = lens_cache("inspect", tars)
    assert out.startswith(f"{tars}: webdataset, complete")
    code, out, _ = lens_cache("verify", tars, "--recompute", 2, "--json")
    assert (code, json.loads(out)["good"]) == (0, True)
    code, out, _ = lens_cache("convert", tiny_store, tars, "--format", "webdataset")
    assert (code, out.split(":")[0]) == (0, f"{tars} is complete")
    assert "neither inside the other" in fails(
        2, "convert", tiny_store, tiny_store, "--format", "webdataset"
    )
    assert "in the format webdataset and in this precision already" in fails(
        2, "convert", tars, tmp_path / "x", "--format", "webdataset"
    )
    assert "no such folder" in fails(
        1, "convert", tmp_path / "none", tmp_path / "x", "--format", "zarr"
    )
    assert not (tmp_path / "x").exists()


def test_a_store_benchmark_measures_every_way_that_is_installed(lens_cache):
    code, out, err = lens_cache("benchmark", "store", "--images", 2, "--rounds", 1, "--json")
    assert code == 0, err
    found = json.loads(out)
    assert found["images"] == 2
    names = [way["name"] for way in found["ways"]]
    assert names[:2] == ["raw memory map", "lens-cache, zarr"]
    assert len(names) + len(found["not_installed"]) == 9
    assert all(way["orders"]["shuffled"]["ratio"] > 0 for way in found["ways"])


def test_a_store_benchmark_keeps_out_of_a_folder_in_use(fails, tmp_path):
    (tmp_path / "mine").write_text("mine")
    message = fails(2, "benchmark", "store", "--out", tmp_path)
    assert "expected no folder or an empty one" in message


@pytest.mark.parametrize(
    "command", [["plan", "S"], ["extract", "S"], ["train", "R", "--store", "S"]]
)
def test_a_mistake_in_the_settings_imports_no_heavy_package(tmp_path, command):
    source = """
import sys
from pipelines.cli import main
try:
    main()
finally:
    print([name for name in ("torch", "ray", "transformers") if name in sys.modules])
"""
    done = subprocess.run(
        [sys.executable, "-c", source, *command, "-c", "missing.yaml"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
    )
    assert (done.returncode, done.stdout.strip()) == (2, "[]")
    assert "missing.yaml: No such file" in done.stderr


def test_the_data_are_looked_for_before_the_models(fails, tmp_path):
    line = fails(1, "extract", tmp_path / "s", "--set", "encoders.llava.checkpoint=no/such-model")
    assert "data.root is not set" in line
    line = fails(1, "extract", tmp_path / "s", "--set", f"data.root={tmp_path / 'none'}")
    assert "is not a folder" in line


def test_the_head_of_the_package_segments_without_any_argument(lens_cache, tmp_path):
    code, out, _ = lens_cache("segment", "--out", tmp_path, "--json")
    (entry,) = json.loads(out)["masks"]
    assert (code, entry["instruction"], entry["calibrated"]) == (0, "the red ring", True)
    assert entry["score"] > 0.8
    assert {Path(entry[name]).name for name in ("mask", "overlay", "panel")} == {
        "ring_mask.png",
        "ring_overlay.png",
        "ring_panel.png",
    }


def test_a_run_is_exported_and_used(lens_cache, run_folder, tmp_path):
    head = tmp_path / "head"
    code, out, _ = lens_cache("export", run_folder, head, "--json")
    document = json.loads(out)
    assert (code, document["folder"], document["repository"]) == (0, str(head), None)
    assert document["bytes"] == sum(file.stat().st_size for file in head.iterdir())
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_bytes(encoded(colours(40, 30)))
    arguments = [tmp_path, "the dog", "a tree", "--model", head, "--out", tmp_path / "o"]
    code, out, _ = lens_cache("segment", *arguments, "--json")
    assert code == 0
    assert {Path(entry["mask"]).name for entry in json.loads(out)["masks"]} == {
        f"{name}_{number}_{text}_mask.png"
        for name in "ab"
        for number, text in enumerate(("the-dog", "a-tree"))
    }
