import dataclasses
import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from lens_cache.config.load import load_config, to_yaml
from lens_cache.config.train import (
    BatchConfig,
    LossConfig,
    ModelConfig,
    OptimizerConfig,
    TrainConfig,
    TrainerConfig,
)
from lens_cache.encoders.llava import LlavaEncoder
from lens_cache.encoders.sam import SamEncoder
from lens_cache.errors import (
    CheckpointError,
    ConfigError,
    StoreError,
    StoreMismatchError,
    TrainingError,
)
from lens_cache.features.types import Features, ImageFeatures
from lens_cache.images.decode import read_image
from lens_cache.images.geometry import image_to_square
from lens_cache.images.masks import decode, from_counts
from lens_cache.models.lens import LensModel
from lens_cache.predictor import LensPredictor
from lens_cache.store.store import Store
from lens_cache.toy.random_checkpoints import write_tiny_checkpoints
from lens_cache.training.data import FeatureDataset, evaluation_draws
from lens_cache.training.losses import LensLoss
from lens_cache.training.run import Run, begin_run
from pipelines.evaluation.evaluate import evaluate
from pipelines.inference.segment import segment
from pipelines.training.train import train
from tests.support import REPOSITORY
from tests.support.pictures import colours, encoded, rotated
from tests.support.stores import extracted, settings


def recipe(*, max_steps=4, model=None, loss=None, optimizer=None, batch=None, **trainer):
    return TrainConfig(
        model=ModelConfig(**{"train_mask_decoder": True, **(model or {})}),
        loss=LossConfig(**{"attention_size": 32, "mask_size": 32, **(loss or {})}),
        optimizer=OptimizerConfig(
            **{"lr": 1e-3, "warmup_steps": 1, "decay": "constant", **(optimizer or {})}
        ),
        batch=BatchConfig(
            **{
                "split": "train2017",
                "contamination": "allow",
                "images": 2,
                "queries_per_image": 2,
                "accumulate": 1,
                "loader_workers": 0,
                **(batch or {}),
            }
        ),
        trainer=TrainerConfig(
            **{
                "max_steps": max_steps,
                "validate_every": 2,
                "precision": "32-true",
                "accelerator": "cpu",
                "threads": 1,
                "log_every": 1,
                **trainer,
            }
        ),
    )


def weights(run, which="last"):
    return torch.load(run.checkpoint(which), weights_only=True)["state_dict"]


def assert_same_weights(one, other):
    assert one.keys() == other.keys()
    assert [name for name in one if not torch.equal(one[name], other[name])] == []


@pytest.fixture(scope="module")
def trained(tmp_path_factory, tiny_store):
    """A run of six steps with validation; do not write into it."""
    folder = tmp_path_factory.mktemp("runs") / "six"
    config = recipe(max_steps=6, batch={"validation_split": "train2017"})
    return train(folder, tiny_store, config, resume=False)


def test_a_training_that_diverges_stops_in_one_line(tmp_path, tiny_store):
    config = recipe(max_steps=6)
    wild = dataclasses.replace(config.optimizer, lr=1e30, gradient_clip=0.0)
    with pytest.raises(TrainingError, match=r"step \d: the loss is not finite .*optimizer\.lr"):
        train(
            tmp_path / "run", tiny_store, dataclasses.replace(config, optimizer=wild), resume=False
        )


def test_a_run_is_complete(trained):
    assert trained.checkpoint().name == "best.ckpt"
    assert trained.checkpoint("last").exists()
    assert torch.load(trained.checkpoint("last"), weights_only=True)["global_step"] == 6
    assert {"config.yaml", "run.json", "manifest.json", "frozen", "logs", "checkpoints"} <= {
        path.name for path in trained.folder.iterdir()
    }
    assert trained.config.model.layer == 4
    header, *lines = (trained.folder / "logs/000/metrics.csv").read_text().splitlines()
    assert {
        "train/total",
        "train/dice",
        "train/bce",
        "train/attention",
        "val/giou",
        "val/ciou",
    } <= (set(header.split(",")))
    assert len(lines) >= 6


@pytest.mark.parametrize(("stop", "accumulate"), [(2, 1), (4, 1), (2, 3)])
def test_a_resumed_run_ends_as_an_uninterrupted_one(tmp_path, tiny_store, stop, accumulate):
    batch = {"accumulate": accumulate, "images": 1}
    whole = train(tmp_path / "a", tiny_store, recipe(max_steps=6, batch=batch), resume=False)
    train(tmp_path / "b", tiny_store, recipe(max_steps=stop, batch=batch), resume=False)
    again = train(tmp_path / "b", tiny_store, recipe(max_steps=6, batch=batch), resume=True)
    assert torch.load(again.checkpoint("last"), weights_only=True)["global_step"] == 6
    assert_same_weights(weights(again), weights(whole))


def test_a_killed_run_resumes_to_the_same_weights(tmp_path, tiny_store):
    config = recipe(max_steps=6, batch={"validation_split": "train2017"})
    whole = train(tmp_path / "a", tiny_store, config, resume=False)
    kept = tmp_path / "kept.ckpt"
    script = f"""
import shutil, torch
from pathlib import Path
from lightning.pytorch.callbacks import Callback
import pipelines.training.train as phase
from lens_cache.config.train import TrainConfig
from lens_cache.config.load import load_config, to_yaml
class Stop(Callback):
    def on_train_batch_start(self, trainer, *_):
        if trainer.global_step == 5:
            import os; os._exit(9)
real = phase.callbacks
phase.callbacks = lambda *a: [*real(*a), Stop()]
config = load_config(TrainConfig, Path({str(whole.folder / "config.yaml")!r}))
phase.train(Path({str(tmp_path / "b")!r}), Path({str(tiny_store)!r}), config, resume=False)
"""
    assert subprocess.run([sys.executable, "-c", script], capture_output=True).returncode == 9
    shutil.copyfile(tmp_path / "b/checkpoints/last.ckpt", kept)
    assert torch.load(kept, weights_only=True)["global_step"] == 4
    again = train(tmp_path / "b", tiny_store, config, resume=True)
    assert_same_weights(weights(again), weights(whole))


def test_a_run_shorter_than_its_checkpoint_interval_is_kept(tmp_path, tiny_store):
    config = recipe(max_steps=3, validate_every=500, batch={"validation_split": "train2017"})
    run = train(tmp_path / "run", tiny_store, config, resume=False)
    assert torch.load(run.checkpoint("last"), weights_only=True)["global_step"] == 3


def test_only_lens_is_trained(trained, tiny_store):
    before = LensModel(trained.config.model, Store(tiny_store).frozen()).state_dict()
    after = trained.load_model("last").state_dict()
    changed = {name.split(".")[0] for name in before if not torch.equal(before[name], after[name])}
    assert "head" in " ".join(changed)
    frozen = [name for name in before if "prompt_encoder" in name]
    assert all(torch.equal(before[name], after[name]) for name in frozen)


@pytest.mark.parametrize(
    "change",
    [
        {"model": {"use_keypoints": False}},
        {"model": {"use_global": False}},
        {"model": {"warm_start": False}},
        {"model": {"attention_rows": "last", "attention_normalisation": "sum"}},
        {"model": {"train_mask_decoder": False}},
        {"loss": {"attention": 0.0}},
        {"loss": {"mask_size": None}},
        {"precision": "bf16-mixed"},
        {"batch": {"loader_workers": 1}},
    ],
    ids=lambda change: "-".join(str(part) for value in change.values() for part in [value]),
)
def test_every_switch_trains_a_step(tmp_path, tiny_store, change):
    run = train(tmp_path / "run", tiny_store, recipe(max_steps=1, **change), resume=False)
    state = weights(run)
    assert all(torch.isfinite(value).all() for value in state.values() if value.is_floating_point())


def test_another_layer_is_one_switch(tmp_path, tiny_coco, tiny_checkpoints):
    store = tmp_path / "store"
    extracted(store, settings(tiny_coco, tiny_checkpoints, layers=(2, 5), shard_size=5))
    with pytest.raises(
        StoreMismatchError, match=r"has layers \[2, 5\].*name no layer.*model.layer"
    ):
        train(tmp_path / "run", store, recipe(max_steps=1), resume=False)
    for layer in (2, 5):
        config = recipe(max_steps=1, model={"layer": layer})
        assert train(tmp_path / f"run{layer}", store, config, resume=False).layer == layer
    with pytest.raises(StoreMismatchError, match="name layer 3"):
        train(tmp_path / "run", store, recipe(model={"layer": 3}), resume=False)


def test_training_needs_neither_photos_nor_checkpoints_nor_encoders(
    tmp_path, tiny_coco, tiny_checkpoints
):
    coco, checkpoints = tmp_path / "coco", tmp_path / "checkpoints"
    shutil.copytree(tiny_coco, coco)
    shutil.copytree(tiny_checkpoints, checkpoints)
    store, run = tmp_path / "store", tmp_path / "run"
    extracted(store, settings(coco, checkpoints))
    shutil.rmtree(coco)
    shutil.rmtree(checkpoints)
    script = f"""
import sys
from pathlib import Path
from pathlib import Path
from lens_cache.config.load import load_config, to_yaml
from lens_cache.config.train import TrainConfig
from pipelines.training.train import train
config = load_config(TrainConfig, None, [
    "trainer.max_steps=1", "trainer.accelerator=cpu", "trainer.precision=32-true",
    "batch.accumulate=1", "batch.loader_workers=0", "loss.mask_size=32", "trainer.threads=1"])
train(Path({str(run)!r}), Path({str(store)!r}), config, resume=False)
banned = [name for name in sys.modules if name.startswith(("lens_cache.encoders", "ray."))
          or name.startswith(("transformers.models.llava", "transformers.models.clip"))
          or name.startswith("segment_anything.predictor.")]
print("LOADED", banned)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "LOADED []" in done.stdout
    found = evaluate(Run.open(run), Store(store), "train2017", num_panels=2)
    assert found.photos_missing == 2


def test_other_settings_are_refused_on_resume(trained, tiny_store, tmp_path):
    config = load_config(TrainConfig, trained.folder / "config.yaml")
    other = dataclasses.replace(config, mask_threshold=0.6)
    with pytest.raises(ConfigError, match=r"only trainer.max_steps may change"):
        train(trained.folder, tiny_store, other, resume=True)
    with pytest.raises(ConfigError, match="already is a run; add --resume"):
        train(trained.folder, tiny_store, config, resume=False)
    with pytest.raises(CheckpointError, match="expected the folder of a training run"):
        train(tmp_path / "new", tiny_store, config, resume=True)


def test_what_is_not_there_is_named(tmp_path, tiny_store):
    with pytest.raises(StoreError, match="no such folder; run `lens-cache extract`"):
        train(tmp_path / "run", tmp_path / "nothing", recipe(), resume=False)
    with pytest.raises(StoreError, match=r"split 'val'.*it has train2017 \(\d+ queries\)"):
        train(tmp_path / "run", tiny_store, recipe(batch={"split": "val"}), resume=False)
    with pytest.raises(CheckpointError, match=r"found no config.yaml and no manifest.json in it"):
        Run.open(tmp_path / "nothing")


def test_a_run_begun_on_another_store_keeps_nothing_of_it(tmp_path, tiny_store, tiny_coco):
    write_tiny_checkpoints(tmp_path / "other", seed=7)
    other = tmp_path / "store"
    extracted(other, settings(tiny_coco, tmp_path / "other"))
    run = tmp_path / "run"
    begin_run(run, Store(other), Store(other).frozen(), ())
    begin_run(run, Store(tiny_store), Store(tiny_store).frozen(), ())
    assert (run / "frozen/sam.safetensors").read_bytes() == (
        tiny_store / "frozen/sam.safetensors"
    ).read_bytes()


@pytest.fixture(scope="module")
def other_store(tmp_path_factory, tiny_coco):
    """A store of the same data, extracted with other weights."""
    folder = tmp_path_factory.mktemp("other")
    write_tiny_checkpoints(folder / "checkpoints", seed=7)
    extracted(folder / "store", settings(tiny_coco, folder / "checkpoints"))
    return folder


def test_features_of_other_models_are_refused(trained, other_store):
    for use in (
        lambda: evaluate(trained, Store(other_store / "store"), "train2017"),
        lambda: train(trained.folder, other_store / "store", trained.config, resume=True),
    ):
        with pytest.raises(StoreMismatchError, match=r"weights is .* in the store and .* here"):
            use()


def test_predicting_with_other_models_is_refused(trained, other_store):
    root = f"encoders.root={other_store / 'checkpoints'}"
    with pytest.raises(StoreMismatchError, match=r"weights is .* in the head and"):
        LensPredictor(trained, overrides=(root,))
    with pytest.raises(CheckpointError, match="looking for LLaVA"):
        LensPredictor(trained, overrides=("encoders.root=/nowhere",))


def test_a_broken_checkpoint_is_named(trained, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(trained.folder, folder)
    for content in (b"", b"nonsense", b"\x80\x02nonsense"):
        (folder / "checkpoints/best.ckpt").write_bytes(content)
        with pytest.raises(CheckpointError, match=r"loading .*best.ckpt"):
            Run.open(folder).load_model()
    torch.save({"state_dict": {}}, folder / "checkpoints/best.ckpt")
    with pytest.raises(CheckpointError, match=r"loading .*best.ckpt"):
        Run.open(folder).load_model()


class Executed:
    def __reduce__(self):
        return (exec, ("raise SystemExit('executed')",))


def test_a_checkpoint_is_never_executed(trained, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(trained.folder, folder)
    torch.save({"state_dict": Executed()}, folder / "checkpoints/best.ckpt")
    with pytest.raises(CheckpointError):
        Run.open(folder).load_model()


def test_evaluation_is_what_its_samples_say(trained, tiny_store, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(trained.folder, folder)
    run = Run.open(folder)
    steps = []
    found = evaluate(
        run, Store(tiny_store), "train2017", num_panels=3, progress=lambda *s: steps.append(s)
    )
    place = folder / "evaluation/train2017"
    lines = [json.loads(line) for line in (place / "samples.jsonl").read_text().splitlines()]
    plan = Store(tiny_store).plan
    assert len(lines) == plan.num_queries == found.overall.queries
    assert len({line["query_id"] for line in lines}) == len(lines)
    each = [1.0 if s["union"] == 0 else s["intersection"] / (s["union"] + 1e-5) for s in lines]
    assert found.overall.giou.value == pytest.approx(np.mean(each), abs=1e-9)
    total = sum(s["intersection"] for s in lines) / sum(s["union"] for s in lines)
    assert found.overall.ciou.value == pytest.approx(total, abs=1e-9)
    assert found.overall.giou.low <= found.overall.giou.value <= found.overall.giou.high
    report = json.loads((place / "report.json").read_text())
    assert report["overall"]["giou"]["value"] == found.overall.giou.value
    assert f"{100 * found.overall.giou.value:.1f}" in (place / "report.md").read_text()
    assert len(found.panels) == 3
    assert {path.name for path in (place / "panels").iterdir()} == {
        name.rsplit("/", 1)[1] for name in found.panels
    }
    assert steps[-1] == ("panels", 3, 3)
    assert found.photos_missing == 0
    assert found.by_topic == {}  # COCO names none
    assert "topic" not in (place / "report.md").read_text()


def test_evaluation_agrees_with_the_model_on_plain_masks(trained, tiny_store, tmp_path):
    """Intersections and unions again, from logits and decoded masks, one query at a time."""
    folder = tmp_path / "run"
    shutil.copytree(trained.folder, folder)
    store, run = Store(tiny_store), Run.open(folder)
    evaluate(run, store, "train2017", num_panels=0)
    lines = (folder / "evaluation/train2017/samples.jsonl").read_text().splitlines()
    model = run.load_model()
    for line in map(json.loads, lines[:6]):
        (query,) = [
            q
            for q in range(store.plan.num_queries)
            if store.plan.query(q).query_id == line["query_id"]
        ]
        planned = store.plan.query(query)
        features = Features.stack([store.read(planned.image_index, [query], 4)])
        with torch.inference_mode():
            logits = model(features).low_res_logits
        side = store.manifest.side
        square = torch.nn.functional.interpolate(
            logits[None], (side, side), mode="bilinear", align_corners=False
        )
        content = square[..., : round(side * 30 / 40), :side]
        full = torch.nn.functional.interpolate(content, (30, 40), mode="bilinear")[0, 0].numpy()
        truth = decode(planned.target())
        keep = np.ones_like(truth)
        if planned.ignore() is not None:
            keep = ~decode(planned.ignore())
        # Packed with other questions, a logit next to zero may change its sign.
        assert abs(line["intersection"] - ((full > 0) & truth & keep).sum()) <= 3
        assert abs(line["union"] - (((full > 0) | truth) & keep).sum()) <= 3


def test_evaluating_again_replaces_the_panels(trained, tiny_store, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(trained.folder, folder)
    for count in (3, 1, 0):
        evaluate(Run.open(folder), Store(tiny_store), "train2017", num_panels=count, limit=2)
        assert len(list((folder / "evaluation/train2017/panels").iterdir())) == count


def test_an_image_is_segmented(trained, tmp_path):
    picture = tmp_path / "photo.png"
    picture.write_bytes(encoded(colours(50, 20)))
    report = segment(LensPredictor(trained), picture, ["the dog"], tmp_path / "out")
    assert {path.name for path in (tmp_path / "out").iterdir()} >= {
        "photo_mask.png",
        "photo_panel.png",
    }
    mask = read_image((tmp_path / "out/photo_mask.png").read_bytes())
    assert mask.shape == (20, 50, 3)
    assert set(np.unique(mask)) <= {0, 255}
    assert report.document["masks"][0]["foreground"] == pytest.approx((mask[..., 0] > 0).mean())
    with pytest.raises(ConfigError, match="the instruction is empty"):
        segment(LensPredictor(trained), picture, ["  "], tmp_path / "out")


def test_prediction_is_what_evaluation_sees(trained, tiny_store, tiny_coco):
    """The same image and instruction, through the encoders and through the store."""
    store, predictor = Store(tiny_store), LensPredictor(trained)
    for query in (0, store.plan.num_queries - 1):
        planned = store.plan.query(query)
        image = store.plan.image(planned.image_index)
        found = predictor(read_image((tiny_coco / image.path).read_bytes()), planned.instruction)
        features = Features.stack([store.read(image.index, [query], 4)])
        with torch.inference_mode():
            answer = trained.load_model()(features)
        np.testing.assert_allclose(found.grounding_map, answer.grounding_map[0], atol=1e-4)
        assert found.mask.shape == planned.size


@pytest.fixture(scope="module")
def predictor(trained):
    return LensPredictor(str(trained.folder), device="cpu")


@pytest.mark.parametrize("form", ["str", "path", "pil", "array", "rgba", "float", "bytes", "exif"])
def test_every_form_of_an_image_gives_the_same_mask(predictor, tmp_path, form):
    pixels = colours(50, 20)
    file = tmp_path / "image.png"
    file.write_bytes(encoded(pixels))
    turned = tmp_path / "turned.png"
    turned.write_bytes(rotated(np.rot90(pixels), 6))
    image = {
        "str": str(file),
        "path": file,
        "pil": Image.fromarray(pixels),
        "array": pixels,
        "rgba": np.dstack([pixels, np.full((20, 50), 255, np.uint8)]),
        "float": pixels / np.float32(255),
        "bytes": file.read_bytes(),
        "exif": Image.open(turned),
    }[form]
    expected, found = predictor(pixels, "the dog"), predictor(image, "the dog")
    assert found.mask.shape == (20, 50)
    np.testing.assert_array_equal(found.image, pixels)
    np.testing.assert_array_equal(found.mask, expected.mask)
    np.testing.assert_array_equal(found.keypoints, expected.keypoints)


def test_several_instructions_run_the_encoders_once(predictor, trained):
    pixels, texts = colours(50, 20), ["the dog", "a tree", "the dog"]
    expected = [predictor(pixels, text) for text in texts]
    counted = LensPredictor(trained, cache_images=2)
    calls = []
    frozen = counted.segmenter.frozen
    for module in (frozen.llava.model.vision_tower, frozen.sam.model):
        module.register_forward_hook(lambda *_: calls.append(1))
    found = counted(pixels, texts)
    counted.set_image(pixels.copy())
    found += [counted.predict(text) for text in texts]
    assert len(calls) == 2
    for one, other in zip(found, expected * 2, strict=True):
        np.testing.assert_allclose(one.logits, other.logits, atol=1e-4)
        np.testing.assert_array_equal(one.mask, other.mask)
    assert not np.array_equal(found[0].logits, found[1].logits)
    # Two images stay encoded; the one that was not used for the longest time goes first.
    for image in (colours(8, 8), colours(9, 9), colours(8, 8), pixels):
        counted(image, "the dog")
    assert len(calls) == 2 + 2 * 3


def test_a_batch_of_images_equals_one_after_another(predictor):
    images = [colours(50, 20), colours(16, 40), colours(50, 20)]
    asked = [["the dog"], ["a tree", "the dog", "all things"], ["a very long way of asking"]]
    found = predictor.batch(images, asked)
    for image, texts, answers in zip(images, asked, found, strict=True):
        for text, answer in zip(texts, answers, strict=True):
            alone = predictor(image, text)
            assert answer.instruction == text
            np.testing.assert_allclose(answer.logits, alone.logits, atol=1e-4)
            assert answer.score == pytest.approx(alone.score, abs=0.01)


def test_a_prediction_is_in_the_frames_it_states(predictor, tmp_path):
    found = predictor(colours(50, 20), "the dog")
    assert found.instruction == "the dog"
    assert found.logits.shape == found.mask.shape == (20, 50)
    assert found.keypoints.shape == found.normalised_keypoints.shape
    np.testing.assert_allclose(found.keypoints, found.normalised_keypoints * 50, rtol=1e-6)
    found.save(tmp_path / "mask.png")
    mask = read_image((tmp_path / "mask.png").read_bytes())[..., 0] > 0
    np.testing.assert_array_equal(mask, found.mask)
    assert found.overlay().size == (50, 20)
    assert found.panel().size[0] > 1000
    inside = [
        0 <= x < 50 and 0 <= y < 20 and found.mask[int(y), int(x)] for x, y in found.keypoints
    ]
    assert found.keypoint_labels.tolist() == [int(label) for label in inside]
    entry = found.to_coco(image_id=7)
    rle = from_counts(entry["segmentation"]["counts"], 20, 50)
    np.testing.assert_array_equal(decode(rle), found.mask)
    assert entry["area"] == found.mask.sum()
    assert json.loads(json.dumps(entry))["image_id"] == 7


def test_a_prediction_needs_an_image_and_an_instruction(trained):
    predictor = LensPredictor(trained, device="cpu")
    with pytest.raises(ConfigError, match=r"no image is set; call set_image"):
        predictor.predict("the dog")
    predictor.set_image(colours(50, 20))
    with pytest.raises(ConfigError, match="the instruction is empty"):
        predictor.predict(" ")


def test_losses_are_those_of_an_online_forward(trained, tiny_store, tiny_coco, tiny_checkpoints):
    """Invariant I4, for what there is: the store against the encoders themselves."""
    store, model = Store(tiny_store), trained.load_model()
    llava = LlavaEncoder.from_checkpoint(
        tiny_checkpoints / "llava", layers=[4], dtype=torch.float32
    )
    sam = SamEncoder.from_checkpoint(tiny_checkpoints / "sam.pth", dtype=torch.float32)
    dataset = FeatureDataset(store, 4, trained.config.loss)
    loss = LensLoss(trained.config.loss, side=store.manifest.side)
    draws = evaluation_draws(store, "train2017", None)[:2]
    batch = FeatureDataset.collate([dataset[draw] for draw in draws])
    online = []
    for draw in draws:
        pixels = read_image((tiny_coco / store.plan.image(draw.image).path).read_bytes())
        square = image_to_square(pixels, store.manifest.side)
        tokens = [
            llava.prompt.token_ids(store.plan.query(q).question).text_ids for q in draw.queries
        ]
        states = llava.encode(square, tokens)
        online.append(
            ImageFeatures(
                prefix=states.prefix[4],
                image_tokens=states.image_tokens[4],
                text_tokens=states.text_tokens[4],
                image_embedding=sam.encode(square, width=40, height=30),
            )
        )
    with torch.inference_mode():
        from_store = loss(model(batch.features), batch.targets)
        from_models = loss(model(Features.stack(online)), batch.targets)
    for name in ("total", "dice", "bce", "attention"):
        assert float(getattr(from_store, name)) == pytest.approx(
            float(getattr(from_models, name)), rel=1e-4
        )


def test_two_processes_train_one_model_and_measure_as_one(tmp_path, tiny_store):
    """Five images on two ranks: uneven, so that a repeated sample would show in gIoU."""
    script = tmp_path / "lens_cache_command.py"
    script.write_text("from pipelines.cli import main\n\nif __name__ == '__main__':\n    main()\n")
    file = tmp_path / "config.yaml"
    batch = {"validation_split": "train2017", "limit_validation_images": 5}
    file.write_text(to_yaml(recipe(max_steps=2, batch=batch, devices=2, strategy="ddp")))
    arguments = ["train", tmp_path / "run", "--store", tiny_store, "-c", file]
    done = subprocess.run(
        [sys.executable, script, *arguments],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    lines = (tmp_path / "run/logs/000/metrics.csv").read_text().splitlines()
    rows = [dict(zip(lines[0].split(","), line.split(","), strict=True)) for line in lines[1:]]
    logged = next(float(row["val/giou"]) for row in rows if row["val/giou"])
    run = Run.open(tmp_path / "run")
    found = evaluate(run, Store(tiny_store), "train2017", num_panels=0)
    assert found.images == 5
    assert found.overall.giou.value == pytest.approx(logged, abs=1e-6)
