"""Draw the figures of README and docs from a training run on the world of shapes.

After the first three commands of the README:

    python docs/figures/make_figures.py runs/readme/run runs/readme/world

Their scenes were chosen among good answers.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from lens_cache.images.decode import read_image
from lens_cache.images.panels import Panel
from lens_cache.predictor import LensPredictor
from lens_cache.training.run import Run

FOLDER = Path(__file__).parent
HERO = ("images/test/000004.png", "Can you mark all red stars for me?")
KINDS = {
    "class": ("images/test/000000.png", "the star"),
    "plural": ("images/test/000006.png", "all large rings"),
    "referring": ("images/test/000001.png", "the large green square"),
    "reasoning": ("images/test/000000.png", "Which of these could be a box?"),
}
GAP, TEXT = 12, 24
INK, GREY = (20, 20, 20), (110, 110, 110)


def panel(predictor: LensPredictor, path: Path, instruction: str) -> Panel:
    """Segment an image file and return its panel."""
    image = read_image(path.read_bytes())
    answer = predictor(image, instruction)
    return Panel(
        image=image,
        title=instruction,
        grounding_map=answer.grounding_map,
        keypoints=answer.normalised_keypoints,
        prediction=answer.mask,
        coordinates=answer.coordinates,
    )


def pictures(panel: Panel, side: int) -> list[Image.Image]:
    """Return image, grounding map and prediction, the longest side in pixels."""
    drawn = panel.images(side)
    return [drawn[name] for name in ("image", "grounding map", "prediction")]


def save(name: str, columns: list[tuple[str, str, list[Image.Image]]]) -> None:
    """Write a PNG of columns, each two lines of text above its pictures."""
    width, height = columns[0][2][0].size
    rows = max(len(images) for _, _, images in columns)
    size = (len(columns) * (width + GAP) + GAP, 2 * TEXT + rows * (height + GAP) + GAP)
    canvas = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(canvas)
    for number, (title, note, images) in enumerate(columns):
        left = GAP + number * (width + GAP)
        draw.text((left, GAP // 2), title, fill=INK, font=ImageFont.load_default(16))
        draw.text((left, GAP // 2 + TEXT), note, fill=GREY, font=ImageFont.load_default(13))
        for row, image in enumerate(images):
            canvas.paste(image, (left, 2 * TEXT + row * (height + GAP)))
    canvas.quantize(256, Image.Quantize.FASTOCTREE).save(FOLDER / name, optimize=True)


def main() -> None:
    """Write ``hero.png`` and ``kinds.png`` beside this file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path, help="folder of the training run")
    parser.add_argument("world", type=Path, help="folder of the world of shapes")
    arguments = parser.parse_args()
    predictor = LensPredictor(Run.open(arguments.run))

    name, instruction = HERO
    image, grounding, prediction = pictures(
        panel(predictor, arguments.world / name, instruction), side=300
    )
    save(
        "hero.png",
        [
            (f'"{instruction}"', "image and instruction", [image]),
            ("grounding map", "keypoints: white inside the mask, red outside", [grounding]),
            ("mask", "predicted by SAM's decoder", [prediction]),
        ],
    )

    columns = [
        (kind, f'"{text}"', pictures(panel(predictor, arguments.world / name, text), side=200))
        for kind, (name, text) in KINDS.items()
    ]
    save("kinds.png", columns)


if __name__ == "__main__":
    main()
