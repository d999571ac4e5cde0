"""Very many images, of which five are bad: the plan is whole and lists the five."""

import pytest

from lens_cache.config.data import DataConfig, LisaConfig
from lens_cache.plan.build import build_plan
from tests.support.lisa_semantic import blocks, write_ade20k, write_label
from tests.support.pictures import write_image

IMAGES = 10_000
STEM = "ADE_train_{:08}"


def write_many(root, number):
    """Write so many images of 12 x 8 pixels, and spoil five; return how each of them is called."""
    write_ade20k(root, {"model": blocks(8, 12, [1, 5])})
    pictures, maps = root / "ade20k/images/training", root / "ade20k/annotations/training"
    picture, labels = (pictures / "model.jpg").read_bytes(), (maps / "model.png").read_bytes()
    (pictures / "model.jpg").unlink()
    (maps / "model.png").unlink()
    for index in range(number):
        # What follows the end of a JPEG makes another file of it, and the same picture.
        (pictures / f"{STEM.format(index)}.jpg").write_bytes(picture + index.to_bytes(4))
        (maps / f"{STEM.format(index)}.png").write_bytes(labels)
    bad = [STEM.format(index) for index in (0, number // 3, number // 2, number - 2, number - 1)]
    (pictures / f"{bad[0]}.jpg").write_bytes(picture[:20])
    (maps / f"{bad[1]}.png").write_bytes(labels[:40])
    (maps / f"{bad[2]}.png").unlink()
    write_label(maps / f"{bad[3]}.png", blocks(8, 12, [1, 200]))
    write_image(pictures / f"{bad[4]}.jpg", 16, 8)
    return bad


@pytest.mark.slow
def test_five_bad_images_are_listed_and_the_others_planned(tmp_path):
    bad = write_many(tmp_path, IMAGES)
    config = DataConfig(kind="lisa", root=tmp_path, lisa=LisaConfig(sets=("ade20k",)))
    plan = build_plan(config)
    assert (plan.num_images, plan.num_queries) == (IMAGES - 5, 2 * (IMAGES - 5))
    rows = {
        row["path"].rpartition("/")[2][:-4]: row["reason"] for row in plan.quarantine.to_pylist()
    }
    assert list(rows) == bad
    parts = ["not an image of a known format", "cannot be decoded as a PNG", "the file is missing"]
    parts += ["values that are no class: 200", "is 12 x 8 pixels, its image"]
    for reason, part in zip(rows.values(), parts, strict=True):
        assert part in reason
