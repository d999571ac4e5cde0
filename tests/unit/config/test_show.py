import tomllib

import jsonschema
import pytest
import yaml

from lens_cache.config.extract import ExtractConfig
from lens_cache.config.load import load_config, preset_files, to_tree
from lens_cache.config.show import json_schema, to_commented_yaml
from lens_cache.config.sweep import SweepConfig
from lens_cache.config.train import TrainConfig
from tests.support import REPOSITORY

FOLDERS = {ExtractConfig: "extract", TrainConfig: "train", SweepConfig: "sweeps"}


@pytest.mark.parametrize("kind", FOLDERS)
def test_every_setting_has_a_description(kind):
    schema = json_schema(kind)
    for section in (schema, *schema["$defs"].values()):
        assert section["description"]
        for name, setting in section["properties"].items():
            # The schema omits the description of a section that repeats the section's own.
            assert "$ref" in setting or setting.get("description", "").endswith("."), name


@pytest.mark.parametrize("kind", [ExtractConfig, TrainConfig])
def test_a_shown_configuration_is_the_same_configuration(tmp_path, kind):
    config = load_config(kind, None, ["preset=shapes"])
    text = to_commented_yaml(config)
    assert yaml.safe_load(text) == to_tree(config)
    assert max(len(line) for line in text.splitlines() if "#" in line) <= 100
    path = tmp_path / "shown.yaml"
    path.write_text(text)
    assert load_config(kind, path) == config


def test_a_setting_is_shown_below_its_description():
    lines = to_commented_yaml(load_config(TrainConfig)).splitlines()
    assert lines[lines.index("  dice: 2.0") - 1] == "  # Weight of the dice loss."
    assert "  betas: [0.9, 0.95]" in lines


@pytest.mark.parametrize("kind", FOLDERS)
def test_the_schema_accepts_the_files_of_the_repository(kind):
    schema = json_schema(kind)
    files = list((REPOSITORY / "configs" / FOLDERS[kind]).glob("*.yaml"))
    assert files
    for path in [*files, *preset_files(kind).values()]:
        tree = yaml.safe_load(path.read_text()) or {}
        jsonschema.validate(tree, schema)
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate({**tree, "typo": 1}, schema)


def test_presets_are_files_of_the_package():
    choices = json_schema(TrainConfig)["properties"]["preset"]["enum"]
    assert list(preset_files(TrainConfig)) == choices == ["paper", "released", "shapes", "tiny"]
    assert list(preset_files(ExtractConfig)) == ["shapes"]
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())
    data = project["tool"]["setuptools"]["package-data"]
    assert data["lens_cache.config"] == ["presets/*/*.yaml", "shipped/*/*.yaml"]
