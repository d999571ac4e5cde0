"""A predictor without models: its masks follow from the instruction by plain rules."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np

from lens_cache.images.inputs import rgb_pixels
from lens_cache.predictor import Segmentation
from lens_cache.predictor.checks import checked_clicks, require_instruction

SCORE = 0.75


def box_of(instruction, height, width):
    """Return the mask of an instruction: a box as wide as the text is long, or nothing."""
    mask = np.zeros((height, width), dtype=bool)
    if "nothing" not in instruction:
        mask[2 : height - 1, 1 : 1 + min(len(instruction), width - 2)] = True
    return mask


class BoxPredictor:
    """Has the calls of ``LensPredictor`` that tools use.

    Attributes:
        asked: The instructions so far.
    """

    head = SimpleNamespace(name="boxes")

    def __init__(self, *, answers=()):
        self.asked = []
        self._answers = list(answers)

    @property
    def can_answer(self):
        return bool(self._answers)

    def __call__(self, image, instruction):
        if isinstance(instruction, list | tuple):
            return [self(image, text) for text in instruction]
        require_instruction(instruction)
        pixels = rgb_pixels(image)
        self.asked.append(instruction)
        mask = box_of(instruction, *pixels.shape[:2])
        return Segmentation(
            image=pixels,
            instruction=instruction,
            mask=mask,
            logits=np.where(mask, 1, -1).astype(np.float32),
            score=SCORE,
            calibrated=True,
            keypoints=np.zeros((0, 2), np.float32),
            keypoint_labels=np.zeros(0, np.int64),
            normalised_keypoints=np.zeros((0, 2), np.float32),
            grounding_map=np.zeros((2, 2), np.float32),
        )

    def refine(self, segmentation, *, points, labels):
        """Each click sets its pixel."""
        height, width = segmentation.mask.shape
        clicks = checked_clicks(points, labels, width=width, height=height)
        mask = segmentation.mask.copy()
        for click in clicks:
            mask[min(int(click.y), height - 1), min(int(click.x), width - 1)] = click.inside
        return replace(segmentation, mask=mask, clicks=segmentation.clicks + clicks)

    def answer(self, image, text, *, max_new_tokens=256):
        rgb_pixels(image)
        return self._answers.pop(0)
