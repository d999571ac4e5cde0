import pytest
import yaml

from lens_cache.config.extract import ExtractConfig
from lens_cache.config.load import load_config, parse_config, to_tree, to_yaml
from lens_cache.config.train import TrainConfig
from lens_cache.errors import ConfigError


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
        ("model: {max_keypoint: 3}", r"model\.max_keypoint: unknown key"),
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


def test_a_missing_file_is_one_line(tmp_path):
    with pytest.raises(ConfigError, match=r"reading the configuration .*gone\.yaml: No such file"):
        load_config(TrainConfig, tmp_path / "gone.yaml")
