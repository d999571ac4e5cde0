"""Reference implementations of the encoders: the published models in their usual form.

Nothing here packs, masks or truncates. ``verify --recompute`` compares a store with these.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from segment_anything import SamPredictor
from segment_anything.modeling import Sam
from torch import Tensor

from lens_cache.encoders.llava_checkpoint import load_whole
from lens_cache.encoders.llava_prompt import LlavaPrompt
from lens_cache.encoders.sam import build_sam
from lens_cache.encoders.sam_checkpoint import GIVE_A_SAM, load_state, read_architecture
from lens_cache.features.weights import load_strict
from lens_cache.images.geometry import resized_size


class PlainLlava:
    """The reference for ``LlavaEncoder``: the whole model on one image and one question.

    The processor makes all tokens; the model runs every layer with its own mask.
    """

    def __init__(self, model: Any, prompt: LlavaPrompt, device: torch.device | str) -> None:
        self.prompt = prompt
        self.model = model.to(device).eval().requires_grad_(False)

    @classmethod
    def from_checkpoint(
        cls,
        folder: Path,
        *,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> PlainLlava:
        """Load the whole model of a Hugging Face LLaVA folder.

        Raises:
            CheckpointError: If files or weights are missing or do not fit.
        """
        prompt = LlavaPrompt.from_folder(folder)
        return cls(load_whole(folder, dtype), prompt, device)

    @torch.inference_mode()
    def states(
        self, square: NDArray[np.uint8], question: str, layers: Sequence[int]
    ) -> dict[int, tuple[Tensor, Tensor, Tensor]]:
        """Return the states of prefix, image tokens and text tokens, by layer.

        Args:
            square: The image from ``geometry.image_to_square``, shape (side, side, 3).
            question: Text of the question.
            layers: Indices into ``hidden_states``.

        Returns:
            For each layer, shapes (P, d), (N, d) and (T, d).
        """
        inputs = self.prompt.processor(
            text=self.prompt.text(question), images=Image.fromarray(square), return_tensors="pt"
        ).to(self.model.device, self.model.dtype)
        output = self.model(**inputs, use_cache=False, output_hidden_states=True)
        is_image = inputs["input_ids"][0] == self.prompt.image_token_id
        start = int(is_image.nonzero()[0])
        end = start + int(is_image.sum())
        states = {layer: output.hidden_states[layer][0] for layer in layers}  # (P + N + T, d)
        return {layer: (h[:start], h[start:end], h[end:]) for layer, h in states.items()}


class PlainSam:
    """The reference for ``SamEncoder``: segment-anything's own predictor on the original image.

    Pixels are normalised in float32, as in ``SamEncoder``; only the image encoder runs in
    ``dtype``.
    """

    def __init__(self, model: Sam, *, dtype: torch.dtype, device: torch.device | str) -> None:
        model.image_encoder.to(dtype)
        model.image_encoder.register_forward_pre_hook(lambda _, inputs: inputs[0].to(dtype))
        self.predictor = SamPredictor(model.to(device))

    @classmethod
    def from_checkpoint(
        cls,
        path: Path,
        *,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> PlainSam:
        """Load a whole SAM.

        Raises:
            CheckpointError: If the file is missing, corrupt or not a SAM, or a weight does not fit.
        """
        state = load_state(path)
        model = build_sam(read_architecture(state, path))
        load_strict(model, state, f"loading SAM from {path}", GIVE_A_SAM)
        return cls(model, dtype=dtype, device=device)

    def encode(self, image: NDArray[np.uint8]) -> Tensor:
        """Embed an RGB image of shape (H, W, 3); returns shape (C, h, w).

        The predictor would round the short side of a very long image to zero pixels. Such an image
        is resized first, as in ``geometry.resized_size``.
        """
        height, width = image.shape[:2]
        side = self.predictor.transform.target_length
        if 2 * side * min(width, height) < max(width, height):
            size = resized_size(width, height, side)
            image = np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BILINEAR))
        self.predictor.set_image(image)
        features: Tensor = self.predictor.get_image_embedding()
        return features[0]
