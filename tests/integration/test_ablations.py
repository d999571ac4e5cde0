import pytest
import yaml

from lens_cache.config.sweep import load_sweep
from lens_cache.errors import ConfigError
from lens_cache.store.store import Store
from pipelines.extraction.runners import run_in_process
from pipelines.sweeps.ablations import ablate, layers_of
from tests.support.stores import Quiet, stamps

BASE = [
    "preset=tiny",
    "model.layer=4",
    "loss.mask_size=32",
    "batch.split=train",
    "batch.images=1",
    "trainer.max_steps=1",
    "trainer.precision=32-true",
    "trainer.accelerator=cpu",
]


def sweep_of(folder, base):
    rows = [{"name": "LENS"}, {"name": "late layer", "set": ["model.layer=6"]}]
    path = folder / "sweep.yaml"
    path.write_text(yaml.safe_dump({"name": "small", "base": base, "rows": rows}))
    return load_sweep(path)


def test_from_a_world_to_a_sweep_over_one_store(tmp_path, tiny_checkpoints):
    config, out = sweep_of(tmp_path, BASE), tmp_path / "out"

    def go():
        return ablate(
            config,
            out,
            Quiet(),
            run_in_process,
            seeds=1,
            counts={"train": 2, "val": 1, "test": 2},
            models=tiny_checkpoints,
        )

    outcome, without_lens = go()
    assert outcome.failures == []
    assert set(outcome.results) == {"LENS", "late layer"}
    assert outcome.results["late layer"][0].config.model.layer == 6
    assert tuple(Store(out / "store").layers) == (4, 6)
    scored = outcome.results["LENS"][0].overall["test"]
    assert {line.splits["test"].overall.queries for line in without_lens.lines} == {scored.queries}
    assert without_lens.development == "val"
    before = stamps(out / "world") | stamps(out / "runs")
    assert go() == (outcome, without_lens)
    assert stamps(out / "world") | stamps(out / "runs") == before


def test_a_row_without_a_layer_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"row 'LENS' has no layer; set model\.layer"):
        layers_of(sweep_of(tmp_path, BASE[:1] + BASE[2:]))
