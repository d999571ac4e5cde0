"""lens-cache in the real lmms-eval: its tasks give the scores of lens-cache's own metrics."""

import io
import json

import numpy as np
import pytest
import torch

pytest.importorskip("lmms_eval", reason="pip install lmms-eval")

from datasets import Dataset, Features
from datasets import Image as ImageColumn
from lmms_eval.evaluator import simple_evaluate
from lmms_eval.tasks import TaskManager
from PIL import Image

from lens_cache.errors import ConfigError, DatasetError
from lens_cache.evaluation.metrics import score_masks
from lens_cache.images import masks
from lens_cache.predictor import LensPredictor
from lens_cache.tools.lmms_eval import model as plugin
from lens_cache.tools.lmms_eval.tasks import utils
from lens_cache.toy.drawing import sample_painted_scene
from lens_cache.toy.instructions import sample_instructions

pytestmark = pytest.mark.lmms
TASKS = (plugin.__file__).rsplit("/", 1)[0] + "/tasks"


def write(folder, rows):
    """Write rows as Parquet with the column of images that the Hub's datasets have."""
    made = Dataset.from_list(rows)
    made = made.cast(Features({**made.features, "image": ImageColumn()}))
    made.to_parquet(str(folder / "data.parquet"))


def png(image):
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, "PNG")
    return {"bytes": stream.getvalue(), "path": ""}


def scenes(count):
    for seed in range(count):
        rng = np.random.default_rng([77, seed])
        painted = sample_painted_scene(rng)
        yield painted, sample_instructions(painted.scene, rng)[0]


def task(folder, base, name, data):
    """Write a task that is one of ours over local data, with ``test`` as its split."""
    lines = [
        f"include: {TASKS}/{base}.yaml",
        f"task: {name}",
        "dataset_path: parquet",
        f"dataset_kwargs: {{data_files: {{test: {data}}}}}",
        "test_split: test",
    ]
    (folder / f"{name}.yaml").write_text("\n".join(lines) + "\n")


def evaluate(folder, name):
    found = simple_evaluate(
        model="lens_cache",
        model_args="pretrained=shapes,device=cpu",
        tasks=[name],
        task_manager=TaskManager(include_path=str(folder)),
        batch_size=1,
        bootstrap_iters=0,
        log_samples=True,
    )
    return found["results"][name], found["samples"][name]


def test_reasonseg_gives_the_scores_of_our_metrics(tmp_path):
    rows = [
        {
            "image": png(painted.image),
            "text": instruction.text,
            "mask": painted.mask(*instruction.things).tolist(),
        }
        for painted, instruction in scenes(4)
    ]
    write(tmp_path, rows)
    task(tmp_path, "reasonseg_val", "local_reasonseg", tmp_path / "data.parquet")
    results, _ = evaluate(tmp_path, "local_reasonseg")
    predictor = LensPredictor.from_pretrained("shapes", device="cpu")
    found = []
    for painted, instruction in scenes(4):
        mask = predictor(painted.image, instruction.text).mask
        target = painted.mask(*instruction.things)
        found += score_masks(torch.from_numpy(mask)[None], torch.from_numpy(target)[None])
    assert results["giou,none"] == pytest.approx(sum(one.iou for one in found) / 4)
    shared, union = (sum(getattr(one, name) for one in found) for name in ("intersection", "union"))
    assert results["ciou,none"] == pytest.approx(shared / union)
    assert results["giou,none"] > 0.5


def test_refcoco_asks_every_sentence_about_a_polygon(tmp_path):
    painted, _ = next(scenes(1))
    height, width = painted.image.shape[:2]
    polygon = [10.0, 10.0, 60.0, 10.0, 60.0, 60.0, 10.0, 60.0]
    rows = [
        {"image": png(painted.image), "answer": ["The ring ", "all stars"], "segmentation": polygon}
    ]
    write(tmp_path, rows)
    task(tmp_path, "refcoco_mask_val", "local_refcoco", tmp_path / "data.parquet")
    results, samples = evaluate(tmp_path, "local_refcoco")
    assert len(samples) == 2
    target = masks.decode(masks.from_polygons([polygon], height, width))
    predictor = LensPredictor.from_pretrained("shapes", device="cpu")
    found = [predictor(painted.image, text).mask for text in ("the ring", "all stars")]
    ious = [(one & target).sum() / (one | target).sum() for one in found]
    assert results["giou,none"] == pytest.approx(np.mean(ious), abs=1e-5)


def test_an_answer_is_sam3_s_document():
    painted, instruction = next(scenes(1))
    predictor = LensPredictor.from_pretrained("shapes", device="cpu")
    one = predictor(painted.image, instruction.text)
    document = json.loads(plugin.masks_json([one]))
    (box,) = document["boxes"]
    rows, columns = np.nonzero(one.mask)
    assert box["x_min"] * one.mask.shape[1] == pytest.approx(columns.min())
    assert box["y_max"] * one.mask.shape[0] == pytest.approx(rows.max() + 1)
    assert document["scores"] == [one.score]
    found = utils.predicted_mask(json.dumps(document), *one.mask.shape)
    assert np.array_equal(found, one.mask)


def test_words_are_an_empty_mask_and_other_sizes_are_refused():
    assert not utils.predicted_mask("there is none", 4, 5).any()
    with pytest.raises(DatasetError, match="of 4 x 5 pixels"):
        utils.predicted_mask('{"masks": [{"size": [2, 2], "counts": [4]}]}', 4, 5)


def test_unknown_settings_are_refused():
    with pytest.raises(ConfigError, match="unknown colour"):
        plugin.LensCache(colour="red")
    with pytest.raises(ConfigError, match="expected 1, found 8"):
        plugin.LensCache(batch_size=8)
