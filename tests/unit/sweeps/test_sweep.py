import dataclasses

import pytest
import yaml

from lens_cache.config.sweep import load_sweep, row_settings
from lens_cache.errors import ConfigError
from tests.support import REPOSITORY

SWEEPS = REPOSITORY / "configs/sweeps"
ABLATIONS = SWEEPS / "ablations.yaml"
GOOD = {
    "name": "small",
    "splits": ["test", "val"],
    "base": ["preset=tiny", "model.layer=4"],
    "rows": [
        {"name": "LENS", "paper": {"test": {"giou": 56.5, "ciou": 57.3}}},
        {"name": "w/o L_attn", "set": ["loss.attention=0"]},
    ],
}


def written(tmp_path, **changes):
    path = tmp_path / "sweep.yaml"
    path.write_text(yaml.safe_dump({**GOOD, **changes}))
    return path


def with_row(tmp_path, **row):
    return written(tmp_path, rows=[*GOOD["rows"], row])


def test_rows_are_settings_on_top_of_the_base(tmp_path):
    sweep = load_sweep(written(tmp_path))
    full, without = (row_settings(sweep, row, seed=2, steps=7) for row in sweep.rows)
    assert (full.loss.attention, without.loss.attention) == (1.0, 0.0)
    assert full.model == without.model
    assert full.model.layer == 4
    assert {full.trainer.seed, without.trainer.seed} == {2}
    assert {full.trainer.max_steps, without.trainer.max_steps} == {7}
    assert sweep.rows[1].folder == "w-o-l-attn"


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"name": "a", "colour": 1}, r"row 'a': colour: unknown key"),
        ({"set": ["loss.dice=1"]}, r"row 3: name: "),
        ({"name": "a", "set": ["loss.dyce=1"]}, r"row 'a': .*loss\.dyce: unknown key"),
        ({"name": "a", "set": ["loss.dice=-1"]}, r"row 'a': .*loss\.dice: .*got -1"),
        ({"name": "a", "set": ["loss.dice"]}, r"row 'a': --set takes a\.b=value"),
        ({"name": "a", "paper": {"test": {"giou": 5}}}, r"row 'a': paper\.test\.ciou: "),
        ({"name": "a", "paper": {"test": {"giou": 101, "ciou": 1}}}, r"row 'a': paper\.test\.giou"),
        ({"name": "a", "paper": {"hard": {"giou": 1, "ciou": 1}}}, r"row 'a': .*of hard, but"),
        ({"name": "a", "set": ["batch.images=9"]}, r"row 'a': its batch .*'LENS'.*in the base"),
        ({"name": "a", "set": ["trainer.max_steps=9"]}, r"row 'a': its trainer settings"),
        ({"name": "W/O l attn"}, r"row 'W/O l attn': expected a name .* no other row has"),
        ({"name": "a", "set": ["loss.attention=0.0"]}, r"row 'a': same settings as 'w/o L_attn'"),
    ],
)
def test_a_wrong_row_is_named_in_one_line(tmp_path, row, message):
    with pytest.raises(ConfigError, match=message) as error:
        load_sweep(with_row(tmp_path, **row))
    assert "\n" not in str(error.value)
    assert "sweep.yaml" in str(error.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rowz": []}, "rowz: unknown key"),
        ({"rows": []}, "rows: "),
        ({"rows": GOOD["rows"][:1]}, "rows: "),
        ({"rows": ["LENS", "b"]}, "row 1: "),
        ({"rows": None}, "rows: "),
        ({"splits": []}, "splits: "),
        ({"name": "../up"}, "name: "),
    ],
)
def test_a_wrong_file_is_refused_in_one_line(tmp_path, changes, message):
    with pytest.raises(ConfigError, match=message) as error:
        load_sweep(written(tmp_path, **changes))
    assert "\n" not in str(error.value)


def test_the_ablations_are_those_of_the_paper():
    sweep = load_sweep(ABLATIONS)
    rows = {row.name: row for row in sweep.rows}
    settings = {name: row_settings(sweep, row) for name, row in rows.items()}
    assert [name for name, row in rows.items() if row.paper] == [
        "LENS",
        "late layer",
        "w/o keypoint description",
        "w/o global description",
        "w/o L_attn",
    ]
    # Table 2: gIoU and cIoU on test, then on val.
    assert [(p.giou, p.ciou) for p in rows["LENS"].paper.values()] == [(56.5, 57.3), (61.4, 65.3)]
    assert settings["late layer"].model.layer == 4
    assert {s.model.layer for s in settings.values()} == {1, 2, 3, 4}


@pytest.mark.parametrize(
    ("file", "varied"),
    [
        ("layers.yaml", {"layer", "attention_rows"}),
        ("keypoints.yaml", {"max_keypoints", "nms_radius", "neighbourhood"}),
    ],
)
def test_the_other_sweeps_vary_what_they_are_for(file, varied):
    sweep = load_sweep(SWEEPS / file)
    first, *others = (row_settings(sweep, row) for row in sweep.rows)
    for config in others:
        assert dataclasses.replace(config, model=first.model) == first
    different = {
        field.name
        for field in dataclasses.fields(first.model)
        for config in others
        if getattr(config.model, field.name) != getattr(first.model, field.name)
    }
    assert different == varied


def test_presets_keep_their_science_and_take_the_sizes_of_the_base():
    sweep = load_sweep(ABLATIONS)
    settings = {row.name: row_settings(sweep, row) for row in sweep.rows}
    released, paper = settings["preset released"], settings["preset paper"]
    assert (released.model.attention_rows, released.mask_threshold) == ("last", 0.6)
    assert (released.loss.dice, released.optimizer.decay) == (4.0, "constant")
    assert (paper.loss.dice, paper.loss.attention) == (2.0, 1.0)
    for config in (released, paper):
        assert config.optimizer.lr == settings["LENS"].optimizer.lr
        assert (config.loss.mask_size, config.loss.attention_size) == (64, 64)
        assert config.batch == settings["LENS"].batch
        assert config.trainer == settings["LENS"].trainer
