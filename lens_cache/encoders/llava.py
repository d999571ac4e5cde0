"""The frozen LLaVA, run only up to the last tapped layer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import LlavaModel

from lens_cache.encoders.llava_checkpoint import load_config, load_model
from lens_cache.encoders.llava_pixels import TowerPixels
from lens_cache.encoders.llava_prompt import LlavaPrompt, square_side
from lens_cache.encoders.llava_states import LlavaBatch, LlavaFeatures, States
from lens_cache.encoders.llava_tower import image_features, truncate_tower
from lens_cache.encoders.packed_decoder import PackedDecoder
from lens_cache.errors import ConfigError
from lens_cache.features.packing import chunks, row_groups
from lens_cache.features.transfer import Transfer

# Most text tokens of one forward, padding included; a longer question runs alone. The limit bounds
# the attention mask, which grows with the square of it.
MAX_TEXT_TOKENS = 4096

_Texts = Sequence[Sequence[int]]


@dataclass(frozen=True)
class _Row:
    """One row of a forward: an image and some of its questions.

    Attributes:
        image: Index of the image in the batch.
        is_first: Whether it is the first row of its image.
        texts: Token ids of the questions.
    """

    image: int
    is_first: bool
    texts: list[Sequence[int]]


class LlavaEncoder:
    """The frozen LLaVA up to its last tapped layer; later layers and the LM head are not loaded.

    Attributes:
        prompt: The prompt; ``prompt.token_ids(question).text_ids`` are the ids for ``encode``.
        layers: Tapped layers in ascending order.
        num_layers: Decoder layers of the whole model (32), including those not loaded.
        hidden_size: Width d of the states (4096).
        dtype: Precision of the weights, the forward pass and the states.
        device: Where the model runs.
    """

    def __init__(
        self,
        model: Any,
        prompt: LlavaPrompt,
        *,
        layers: tuple[int, ...],
        num_layers: int,
        device: torch.device | str,
    ) -> None:
        """Wrap a model and run the prefix.

        Args:
            model: A ``LlavaModel`` that ends at the last tapped layer; modified in place.
            prompt: Its prompt.
            layers: Tapped layers in ascending order.
            num_layers: Decoder layers of the whole model.
            device: Where it runs.
        """
        self.prompt = prompt
        self.layers = layers
        self.num_layers = num_layers
        self.hidden_size = int(model.config.text_config.hidden_size)
        self.device = torch.device(device)
        self.dtype: torch.dtype = model.dtype
        self.model = model.to(self.device).eval().requires_grad_(False)
        truncate_tower(self.model)
        self._pixels = TowerPixels(prompt.processor.image_processor, square_side(prompt.processor))
        self._transfer = Transfer(self.device)
        self._decoder = PackedDecoder(
            self.model.language_model, prompt.prefix_ids, layers, self._transfer
        )

    @classmethod
    def from_checkpoint(
        cls,
        folder: Path,
        *,
        layers: Sequence[int],
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> LlavaEncoder:
        """Load a Hugging Face LLaVA folder up to the last tapped layer.

        The final norm is kept only if ``hidden_states[num_layers]`` is tapped: transformers applies
        it to the output of the last layer and to no other.

        Args:
            folder: Local folder with safetensors weights.
            layers: Tapped layers, from 1 to the number of decoder layers. Layer L means
                ``hidden_states[L]``, the input of decoder layer L.
            dtype: Precision of the forward pass.
            device: Where the model runs.

        Raises:
            ConfigError: If there is no layer or one is out of range.
            CheckpointError: If files or weights are missing or do not fit.
        """
        config = load_config(folder)
        num_layers = int(config.text_config.num_hidden_layers)
        tapped = tuple(sorted(set(layers)))
        if not tapped or tapped[0] < 1 or tapped[-1] > num_layers:
            raise ConfigError(
                f"loading LLaVA from {folder}: expected layers between 1 and {num_layers}, found "
                f"{list(layers)}; set encoders.llava.layers"
            )
        prompt = LlavaPrompt.from_folder(folder)
        config.text_config.num_hidden_layers = tapped[-1]
        model = load_model(LlavaModel, folder, config, dtype)
        if tapped[-1] < num_layers:
            model.language_model.norm = nn.Identity()
        return cls(model, prompt, layers=tapped, num_layers=num_layers, device=device)

    @property
    def prefix(self) -> States:
        """States of the system prefix, shape (P, d), by tapped layer."""
        return self._decoder.prefix

    @property
    def num_image_tokens(self) -> int:
        """Number of tokens of an image (576)."""
        return self.prompt.num_image_tokens

    @property
    def grid(self) -> tuple[int, int]:
        """(rows, columns) of the image tokens (24, 24)."""
        return self.prompt.grid

    def compile(self) -> None:
        """Compile the model with ``torch.compile``; the first batches then take longer.

        The tower has kernels of its own for every batch size, and those of the layers take any, so
        that bits do not depend on earlier batches.
        """
        for layer in self.model.language_model.layers:
            layer.compile(dynamic=True)
        self.model.vision_tower.compile(dynamic=False)

    def pixels(self, square: NDArray[np.uint8]) -> Tensor:
        """Preprocess an image for the vision tower, on the CPU; thread-safe.

        Args:
            square: The image from ``geometry.image_to_square``, shape (side, side, 3), any side.

        Returns:
            Normalised pixels, float32, shape (3, tower side, tower side).

        Raises:
            ValueError: If ``square`` is not a square RGB image.
        """
        if square.ndim != 3 or square.shape[0] != square.shape[1] or square.shape[2] != 3:
            raise ValueError(f"square must have shape (side, side, 3), got {square.shape}")
        return self._pixels(square)

    def encode(self, square: NDArray[np.uint8], texts: _Texts) -> LlavaFeatures:
        """Run one image with all its questions in one packed sequence.

        The states of the image do not depend on the questions. Their last bits may depend on the
        *number* of packed tokens, because kernels depend on sizes.

        Args:
            square: The image from ``geometry.image_to_square``, shape (side, side, 3), any side.
            texts: Token ids of each question (``PromptTokens.text_ids``); may be empty.

        Returns:
            States in the encoder's dtype and on its device.

        Raises:
            ValueError: If ``square`` is not a square RGB image.
        """
        batch = self.encode_batch([self.pixels(square)], [texts])
        lengths = [len(text) for text in texts]
        return LlavaFeatures(
            prefix=self.prefix,
            image_tokens={n: states[0] for n, states in batch.image_tokens.items()},
            text_tokens={
                n: list(torch.split(states, lengths)) for n, states in batch.text_tokens.items()
            },
        )

    @torch.inference_mode()
    def encode_batch(self, pixels: Sequence[Tensor], texts: Sequence[_Texts]) -> LlavaBatch:
        """Run B images, each with all its questions in packed sequences.

        Args:
            pixels: Each image as ``pixels`` returns it.
            texts: For each image the token ids of its questions; may be empty.

        Returns:
            States in the encoder's dtype and on its device.
        """
        features = image_features(self.model, self._transfer.upload(torch.stack(list(pixels))))

        # Rows: an image with more text than fits in one forward takes several.
        rows = _rows(texts)
        lengths = [sum(len(text) for text in row.texts) for row in rows]

        # One forward for each group of rows.
        image_states: list[States] = []
        text_states: list[States] = []
        for group in row_groups(lengths, MAX_TEXT_TOKENS):
            chosen = rows[group.start : group.stop]
            of_images, of_texts = self._decoder.run(
                torch.stack([features[row.image] for row in chosen]), [row.texts for row in chosen]
            )
            image_states.append(of_images)
            text_states.append(of_texts)

        # All rows of an image have the same image states: keep those of its first row.
        first_rows = torch.tensor([index for index, row in enumerate(rows) if row.is_first])
        first_rows = self._transfer.upload(first_rows)
        image_tokens, text_tokens = {}, {}
        for layer in self.layers:
            images = torch.cat([states[layer] for states in image_states])  # (rows, N, d)
            image_tokens[layer] = images.index_select(0, first_rows)
            text_tokens[layer] = torch.cat([states[layer] for states in text_states])
        return LlavaBatch(image_tokens=image_tokens, text_tokens=text_tokens)


def _rows(texts: Sequence[_Texts]) -> list[_Row]:
    """Split the questions of each image into rows of at most ``MAX_TEXT_TOKENS`` tokens."""
    return [
        _Row(image, number == 0, group)
        for image, questions in enumerate(texts)
        for number, group in enumerate(chunks(questions, MAX_TEXT_TOKENS))
    ]
