from pathlib import Path

import pytest
import yaml

from lens_cache.config.extract import ExtractConfig
from lens_cache.config.load import load_config, parse_config, to_tree, to_yaml
from lens_cache.config.sweep import load_sweep
from lens_cache.config.train import TrainConfig
from lens_cache.errors import ConfigError
from tests.support import REPOSITORY


def _write(tmp_path, text):
    path = tmp_path / "config.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_defaults_are_the_paper():
    config = load_config(TrainConfig)
    assert (config.loss.dice, config.loss.bce) == (2.0, 4.0)
    assert config.model.max_keypoints == 16
    assert config.optimizer.lr == 5e-5


def test_file_beats_preset_and_override_beats_file(tmp_path):
    path = _write(tmp_path, "preset: released\nloss: {dice: 9}\noptimizer: {lr: 1.0}\n")
    config = load_config(TrainConfig, path, ["optimizer.lr=2.0", "optimizer.lr=3.0"])
    assert config.loss.dice == 9
    assert config.loss.bce == 2
    assert config.optimizer.lr == 3
    assert config.model.attention_rows == "last"


@pytest.mark.parametrize("kind", [TrainConfig, ExtractConfig])
def test_a_config_survives_yaml(kind):
    config = load_config(kind)
    assert parse_config(kind, yaml.safe_load(to_yaml(config)), source="test") == config
    assert parse_config(kind, to_tree(config), source="test") == config


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("model: {max_keypoint: 3}", r"did you mean model\.max_keypoints\?"),
        ("max_steps: 3", r"max_steps: unknown key; did you mean trainer\.max_steps\?"),
        ("batch: {mixture: [{rat: 3}]}", r"did you mean batch\.mixture\.rate\?"),
        ("model: {max_keypoints: 0}", r"model\.max_keypoints: .*greater than 0, got 0"),
        ("model: {attention_rows: all}", r"model\.attention_rows: .*got 'all'"),
        ("- 1", "expected 'key: value' lines, found list"),
        ("a: [", "not valid YAML"),
        ("preset: other", "preset: "),
    ],
)
def test_mistakes_are_named(tmp_path, text, message):
    with pytest.raises(ConfigError, match=message):
        load_config(TrainConfig, _write(tmp_path, text))


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("model", "takes a.b=value, got 'model'"),
        (".x=1", "takes a.b=value"),
        ("loss.dice=[", "is not a YAML value"),
        ("preset.x=1", "preset"),
    ],
)
def test_wrong_overrides_are_named(override, message):
    with pytest.raises(ConfigError, match=message):
        load_config(TrainConfig, None, ["preset=paper", override])


def test_a_mistake_is_blamed_on_the_file_or_on_the_override(tmp_path):
    path = _write(tmp_path, "loss: {dise: 1, bce: 2}")
    with pytest.raises(ConfigError) as error:
        load_config(TrainConfig, path, ["loss.bce=-1", "loss.attention=1"])
    assert str(error.value) == (
        "--set loss.bce=-1: loss.bce: input should be greater than or equal to 0, got -1; "
        f"reading {path}: loss.dise: unknown key; did you mean loss.dice?"
    )


def test_a_preset_of_an_extraction_is_a_base_and_no_setting(tmp_path):
    path = _write(tmp_path, "preset: shapes\nstore: {shard_size: 5}\n")
    config = load_config(ExtractConfig, path)
    assert (config.encoders.llava.layers, config.store.shard_size) == ((2,), 5)
    assert "preset" not in to_tree(config)
    with pytest.raises(ConfigError, match="--set preset=paper: preset: expected one of shapes"):
        load_config(ExtractConfig, path, ["preset=paper"])


def test_a_leading_tilde_is_the_home_directory(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    overrides = ["data.root=~/x", "encoders.root=~/c", "encoders.llava.checkpoint=~/llava"]
    config = load_config(ExtractConfig, None, overrides)
    assert (config.data.root, config.encoders.root) == (tmp_path / "x", tmp_path / "c")
    assert config.encoders.llava.checkpoint == str(tmp_path / "llava")
    with pytest.raises(ConfigError, match=r"data\.root: there is no such home directory"):
        load_config(ExtractConfig, None, ["data.root=~nobody-of-that-name/x"])


def test_a_missing_file_is_one_line(tmp_path):
    with pytest.raises(ConfigError, match=r"reading the configuration .*gone\.yaml: No such file"):
        load_config(TrainConfig, tmp_path / "gone.yaml")


def test_several_files_are_merged_key_by_key_and_later_ones_win(tmp_path):
    first, second = tmp_path / "first.yaml", tmp_path / "second.yaml"
    first.write_text("data: {kind: jsonl, root: /one}\nstore: {shard_size: 7}\n")
    second.write_text("data: {root: /two}\n")
    found = load_config(ExtractConfig, [first, second], ["store.shard_size=9"])
    assert (found.data.kind, found.data.root) == ("jsonl", Path("/two"))
    assert found.store.shard_size == 9
    assert load_config(ExtractConfig, [second, first]).data.root == Path("/one")


def test_an_error_names_every_file(tmp_path):
    files = [tmp_path / "first.yaml", tmp_path / "second.yaml"]
    for file in files:
        file.write_text("store: {shard_size: none}\n")
    with pytest.raises(ConfigError, match=r"reading .*first.yaml and .*second.yaml: store.shard_s"):
        load_config(ExtractConfig, files)


@pytest.mark.parametrize(("kind", "folder"), [(ExtractConfig, "extract"), (TrainConfig, "train")])
def test_a_name_is_a_file_that_comes_with_the_package(kind, folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    files = sorted((REPOSITORY / "configs" / folder).glob("*.yaml"))
    assert files
    for file in files:
        assert load_config(kind, file.stem) == load_config(kind, file)
    with pytest.raises(ConfigError, match=r"nothing: expected a file, or one of .*shapes"):
        load_config(kind, "nothing")
    (tmp_path / files[0].stem).write_text("preset: nothing\n")
    with pytest.raises(ConfigError, match="preset: expected one of"):
        load_config(kind, files[0].stem)  # a file of that name comes first


def test_the_ablations_are_found_from_anywhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert load_sweep("ablations") == load_sweep(REPOSITORY / "configs/sweeps/ablations.yaml")
