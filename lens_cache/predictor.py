"""From one image and one instruction to a mask, with a trained run and the frozen models."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from lens_cache.datasets.questions import is_long, question
from lens_cache.encoders.llava import LlavaEncoder
from lens_cache.encoders.resolve import Encoders
from lens_cache.encoders.sam import SamEncoder
from lens_cache.errors import ConfigError
from lens_cache.evaluation.mask_pairs import threshold_logit
from lens_cache.features.types import Features, ImageFeatures
from lens_cache.images.geometry import image_to_square, logits_to_image
from lens_cache.store.manifest import require_same, with_overrides
from lens_cache.training.run import Run, Which, autocast


@dataclass(frozen=True)
class Prediction:
    """The answer to one instruction.

    Attributes:
        mask: Bool, (H, W), in the pixels of the image.
        logits: Mask logits, float32 (H, W).
        grounding_map: Over the square's grid, float32 (rows, columns).
        keypoints: (x, y) in normalised coordinates of the square, float32 (n, 2).
    """

    mask: NDArray[np.bool_]
    logits: NDArray[np.float32]
    grounding_map: NDArray[np.float32]
    keypoints: NDArray[np.float32]


class LensPredictor:
    """Segments images by instruction; encoders and head stay loaded."""

    def __init__(
        self,
        run: Run,
        *,
        overrides: tuple[str, ...] = (),
        which: Which | None = None,
        device: str = "cpu",
    ) -> None:
        """Load the run's model and the frozen models it was trained on.

        Args:
            run: The run.
            overrides: Where things lie on this machine, e.g. ``encoders.root=/checkpoints``.
            which: Checkpoint; the best one where there is one, by default.
            device: Where everything runs.

        Raises:
            CheckpointError: If weights are missing.
            StoreMismatchError: If the frozen models are not those of the run.
        """
        self._run, self._device = run, device
        config = with_overrides(run.manifest, overrides)
        self._data, settings = config.data, config.encoders
        encoders = Encoders.resolve(config)
        for group, fingerprint in encoders.fingerprints.items():
            advice = "Give the checkpoints of the run (--set encoders.root=...)"
            trained = run.manifest.fingerprints[group]
            require_same(run.folder, f"the group {group}", trained, fingerprint, advice)
        self._side = encoders.side
        self._llava = LlavaEncoder.from_checkpoint(
            encoders.llava,
            layers=[run.layer],
            dtype=getattr(torch, settings.llava.dtype),
            device=device,
        )
        self._sam = SamEncoder.from_checkpoint(
            encoders.sam, dtype=getattr(torch, settings.sam.dtype), device=device
        )
        self._model = run.load_model(which).to(device)

    @torch.inference_mode()
    def __call__(self, image: NDArray[np.uint8], instruction: str) -> Prediction:
        """Segment an RGB image of shape (H, W, 3).

        Raises:
            ConfigError: If the instruction is empty.
        """
        features = self._encode(image, instruction)
        with autocast(self._run.config, self._device):
            answer = self._model(features.to(self._device, torch.float32))
        height, width = image.shape[:2]
        logits = logits_to_image(
            answer.low_res_logits[0], width=width, height=height, side=self._side
        )
        keypoints = answer.keypoints[0][answer.keypoint_mask[0]]
        return Prediction(
            mask=(logits > threshold_logit(self._run.config.mask_threshold)).cpu().numpy(),
            logits=logits.cpu().numpy(),
            grounding_map=answer.grounding_map[0].float().cpu().numpy(),
            keypoints=keypoints.float().cpu().numpy(),
        )

    def _encode(self, image: NDArray[np.uint8], instruction: str) -> Features:
        """Run the frozen models as an extraction does."""
        if not instruction.strip():
            raise ConfigError('segmenting: the instruction is empty; say what, e.g. "the orange"')
        asked = question(instruction, "long" if is_long(instruction) else "short", self._data)
        tokens = self._llava.prompt.token_ids(asked).text_ids
        height, width = image.shape[:2]
        square = image_to_square(image, self._side)
        states = self._llava.encode(square, [tokens])
        layer = self._run.layer
        return Features.stack(
            [
                ImageFeatures(
                    prefix=states.prefix[layer],
                    image_tokens=states.image_tokens[layer],
                    text_tokens=states.text_tokens[layer],
                    image_embedding=self._sam.encode(square, width=width, height=height),
                )
            ]
        )
