"""Segment an image by one or several instructions, and save the overlay of each answer.

python examples/predict.py photo.jpg "the red circle" --run runs/demo/run
"""

from __future__ import annotations

import argparse
from pathlib import Path

import lens_cache as lc


def main() -> None:
    """Write ``OUT/mask_N.png`` and ``OUT/overlay_N.png`` for each instruction."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "image", nargs="?", default="runs/demo/world/images/test/000000.png", help="image file"
    )
    parser.add_argument("instructions", nargs="*", default=["the red circle"])
    parser.add_argument("--run", default="runs/demo/run", help="folder of the training run")
    parser.add_argument("--out", type=Path, default=Path("runs/demo/predictions"))
    parser.add_argument("--device", default=None, help="cuda if there is a GPU, otherwise cpu")
    arguments = parser.parse_args()

    arguments.out.mkdir(parents=True, exist_ok=True)
    predictor = lc.LensPredictor(arguments.run, device=arguments.device)
    found = predictor(arguments.image, arguments.instructions)  # encodes the image once
    for number, answer in enumerate(found):
        answer.save(arguments.out / f"mask_{number}.png")
        answer.overlay().save(arguments.out / f"overlay_{number}.png")
        print(f"{answer.instruction!r}: {answer.mask.mean():.1%} of the image")
        print(f"    score {answer.score:.2f}, box {answer.box}")
        print(f"    keypoints (x, y) in pixels: {answer.keypoints.round(1).tolist()}")


if __name__ == "__main__":
    main()
