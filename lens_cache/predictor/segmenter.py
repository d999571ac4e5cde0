"""The frozen models and the head together: encoded images and questions in, masks out."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from lens_cache.datasets.base import Length
from lens_cache.datasets.questions import is_long, question
from lens_cache.evaluation.confidence import measures_of
from lens_cache.evaluation.mask_pairs import threshold_logit
from lens_cache.features.types import Features, ImageFeatures, LensOutput
from lens_cache.images.geometry import image_to_normalised, logits_to_image, normalised_to_image
from lens_cache.models.decoder import Clicks
from lens_cache.predictor.encoded_images import EncodedImage
from lens_cache.predictor.frozen_models import FrozenModels
from lens_cache.predictor.segmentation import Click, Segmentation
from lens_cache.predictor.trained_head import TrainedHead
from lens_cache.training.run import autocast


class Segmenter:
    """Segments encoded images; it keeps no state between calls.

    Attributes:
        head: The trained head.
        frozen: The frozen models.
        model: The model that reads their features.
        device: Device of all models.
    """

    def __init__(
        self, head: TrainedHead, overrides: tuple[str, ...], device: str, *, chat: bool
    ) -> None:
        """Load the frozen models of a head; see ``FrozenModels.load`` for the arguments."""
        self.head = head
        self.device = device
        self.frozen = FrozenModels.load(head, overrides, device, chat=chat)
        self.model = head.build(self.frozen.parts).to(device)
        self._data = head.extract_config(overrides).data
        self._threshold = threshold_logit(head.config.mask_threshold)

    def features(self, image: EncodedImage, questions: Sequence[str]) -> ImageFeatures:
        """Return the features of an image and complete questions, as an extraction stores them."""
        ids = [self.frozen.prompt.token_ids(text).text_ids for text in questions]
        return ImageFeatures(
            prefix=self.frozen.prefix(image.llava)[self.head.layer],
            image_tokens=image.llava.image_tokens,
            text_tokens=image.llava.text_tokens(ids),
            image_embedding=image.embedding,
        )

    def segment(
        self, asked: Sequence[tuple[EncodedImage, list[str]]], clicks: tuple[Click, ...] = ()
    ) -> list[list[Segmentation]]:
        """Segment images by their instructions, with one pass of the head.

        Args:
            asked: The images, each with its instructions; with clicks it is one instruction.
            clicks: Further prompts of the decoder.
        """
        stacked = Features.stack(
            [self.features(image, [self._question(t) for t in texts]) for image, texts in asked]
        )
        features = stacked.to(self.device, torch.float32)
        with torch.inference_mode(), autocast(self.head.config, self.device):
            prompts = self.model.prompts(features)
            output = self.model.decode(
                prompts, features.image_embeddings, self._prompt_of(clicks, asked[-1][0])
            )
        questions = [(image, text) for image, texts in asked for text in texts]
        found = iter(
            self._answer(output, index, image, text, clicks)
            for index, (image, text) in enumerate(questions)
        )
        return [[next(found) for _ in texts] for _, texts in asked]

    def _question(self, instruction: str) -> str:
        length: Length = "long" if is_long(instruction) else "short"
        return question(instruction, length, self._data)

    def _prompt_of(self, clicks: tuple[Click, ...], image: EncodedImage) -> Clicks | None:
        """Return clicks as a prompt of the decoder; None without clicks."""
        if not clicks:
            return None
        height, width = image.pixels.shape[:2]
        points = np.array([(click.x, click.y) for click in clicks])
        square = image_to_normalised(points, width=width, height=height)
        return Clicks(
            points=torch.tensor(square, dtype=torch.float32, device=self.device)[None],
            labels=torch.tensor([[int(click.inside) for click in clicks]], device=self.device),
        )

    def _answer(
        self,
        output: LensOutput,
        index: int,
        image: EncodedImage,
        instruction: str,
        clicks: tuple[Click, ...],
    ) -> Segmentation:
        """Return the answer to one question of a batch."""
        assert output.quality is not None
        height, width = image.pixels.shape[:2]
        logits = logits_to_image(
            output.low_res_logits[index], width=width, height=height, side=self.frozen.side
        )
        mask = (logits > self._threshold).cpu().numpy()
        points = output.keypoints[index][output.keypoint_mask[index]].float().cpu().numpy()
        in_image = normalised_to_image(points.astype(np.float64), width=width, height=height)
        found = measures_of(output.quality[index], logits, self._threshold)
        measures = {name: float(value) for name, value in found.items()}
        calibration = self.head.calibration
        return Segmentation(
            image=image.pixels,
            instruction=instruction,
            mask=mask,
            logits=logits.cpu().numpy(),
            score=calibration.score(measures) if calibration else measures["stability"],
            calibrated=calibration is not None,
            keypoints=in_image.astype(np.float32),
            keypoint_labels=_inside(mask, in_image),
            normalised_keypoints=points,
            grounding_map=output.grounding_map[index].float().cpu().numpy(),
            coordinates=output.coordinates,
            clicks=clicks,
        )


def _inside(mask: NDArray[np.bool_], points: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return 1 for each point (x, y) in pixels that is inside a mask, otherwise 0."""
    height, width = mask.shape
    return np.array(
        [0 <= x < width and 0 <= y < height and mask[int(y), int(x)] for x, y in points],
        dtype=np.int64,
    )
