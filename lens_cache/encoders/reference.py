"""The references for the encoders: the published models, run the ordinary way.

Nothing here packs, masks or truncates; ``verify --recompute`` compares a store with it.
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
from transformers import LlavaForConditionalGeneration

from lens_cache.encoders.llava_checkpoint import load_config, load_model
from lens_cache.encoders.llava_prompt import LlavaPrompt
from lens_cache.encoders.sam import build_sam
from lens_cache.encoders.sam_checkpoint import load_state, load_strictly, read_architecture
from lens_cache.images.geometry import resized_size


class PlainLlava:
    """The reference for ``LlavaEncoder``: the whole model, run the ordinary way.

    One image, one question, tokens and image tokens from the processor, no packing, no mask of
    ours, every layer.
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
        model = load_model(LlavaForConditionalGeneration, folder, load_config(folder), dtype)
        return cls(model, prompt, device)

    @torch.inference_mode()
    def states(
        self, square: NDArray[np.uint8], question: str, layers: Sequence[int]
    ) -> dict[int, tuple[Tensor, Tensor, Tensor]]:
        """Return per layer the states of prefix (P, d), image (N, d) and text (T, d)."""
        inputs = self.prompt.processor(
            text=self.prompt.text(question), images=Image.fromarray(square), return_tensors="pt"
        ).to(self.model.device, self.model.dtype)
        output = self.model(**inputs, use_cache=False, output_hidden_states=True)
        is_image = inputs["input_ids"][0] == self.prompt.image_token_id
        start = int(is_image.nonzero()[0])
        end = start + int(is_image.sum())
        hidden = {n: output.hidden_states[n][0] for n in layers}
        return {n: (h[:start], h[start:end], h[end:]) for n, h in hidden.items()}


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
            CheckpointError: If the file is missing, corrupt, not a SAM, or lacks weights.
        """
        state = load_state(path)
        model = build_sam(read_architecture(state, path))
        load_strictly(model, state, path)
        return cls(model, dtype=dtype, device=device)

    def encode(self, image: NDArray[np.uint8]) -> Tensor:
        """Embed an RGB image of shape (H, W, 3); returns shape (C, h, w).

        Of a very long or high image the predictor would keep no pixel of the short side.
        """
        height, width = image.shape[:2]
        side = self.predictor.transform.target_length
        if 2 * side * min(width, height) < max(width, height):
            size = resized_size(width, height, side)
            image = np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BILINEAR))
        self.predictor.set_image(image)
        features: Tensor = self.predictor.get_image_embedding()
        return features[0]
