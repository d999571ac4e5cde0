"""LLaVA, frozen, run up to the tapped layer and no further."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from transformers import LlavaModel

from lens_cache.encoders.llava_checkpoint import load_config, load_model
from lens_cache.encoders.llava_prompt import LlavaPrompt
from lens_cache.encoders.packed_decoder import PackedDecoder, States
from lens_cache.encoders.transfer import Transfer
from lens_cache.errors import ConfigError
from lens_cache.features.packing import chunks, row_groups

# Questions packed into one forward hold at most so many tokens, padding included (unless one alone
# is longer): the attention mask grows with the square.
MAX_TEXT_TOKENS = 4096

_Texts = Sequence[Sequence[int]]


@dataclass(frozen=True)
class LlavaFeatures:
    """States of one image and its questions, per tapped layer.

    Attributes:
        prefix: States of the system prefix, shape (P, d), the same for every image.
        image_tokens: States of the image, row-major over the grid, shape (N, d).
        text_tokens: States of each question, in order, shapes (T_q, d).
    """

    prefix: States
    image_tokens: States
    text_tokens: dict[int, list[Tensor]]


@dataclass(frozen=True)
class LlavaBatch:
    """States of B images and their questions, per tapped layer.

    Attributes:
        image_tokens: States of the images, shape (B, N, d).
        text_tokens: States of all questions, one after another, image by image, shape (tokens, d).
    """

    image_tokens: States
    text_tokens: States


@dataclass(frozen=True)
class _Row:
    """What one row of a forward holds: an image and as many of its questions as fit."""

    image: int
    begins: bool
    texts: list[Sequence[int]]


class LlavaEncoder:
    """The frozen LLaVA up to its last tapped layer; later layers and the LM head are not loaded.

    Attributes:
        prompt: The prompt; ``prompt.token_ids(question).text_ids`` is what ``encode`` takes.
        layers: Tapped layers in ascending order.
        num_layers: Decoder layers of the whole model (32), not only of the loaded part.
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
        """Take a model and run the prefix.

        Args:
            model: A ``LlavaModel`` that ends at the last of the layers; it is changed.
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
        end_tower(self.model)
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

        ``hidden_states[num_layers]``, the output of the last layer, is normed in transformers; so
        the final norm stays if that is tapped, and is left out otherwise.

        Args:
            folder: Local folder with safetensors weights.
            layers: Tapped layers: ``hidden_states[layer]``, the input of decoder layer ``layer``.
            dtype: Precision of the forward pass.
            device: Where the model runs.

        Raises:
            ConfigError: If a layer is out of range.
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
        """States of the system prefix, shape (P, d), per tapped layer."""
        return self._decoder.prefix

    @property
    def num_image_tokens(self) -> int:
        """How many tokens an image has (576)."""
        return self.prompt.num_image_tokens

    @property
    def grid(self) -> tuple[int, int]:
        """(rows, columns) of the image tokens (24, 24)."""
        return self.prompt.grid

    def compile(self) -> None:
        """Let torch.compile make kernels for the model; the first batches then take longer."""
        for layer in self.model.language_model.layers:
            layer.compile(dynamic=True)
        self.model.vision_tower.compile()

    def pixels(self, square: NDArray[np.uint8]) -> Tensor:
        """Return what the model takes of an image, on the host; any thread may call this.

        Args:
            square: The image from ``geometry.image_to_square``, shape (side, side, 3), any side.

        Raises:
            ValueError: If ``square`` is not a square RGB image.
        """
        if square.ndim != 3 or square.shape[0] != square.shape[1] or square.shape[2] != 3:
            raise ValueError(f"square must have shape (side, side, 3), got {square.shape}")
        image = Image.fromarray(square)
        processed = self.prompt.processor.image_processor(image, return_tensors="pt")
        pixels: Tensor = processed["pixel_values"][0]
        return pixels

    def encode(self, square: NDArray[np.uint8], texts: _Texts) -> LlavaFeatures:
        """Run one image with all its questions, packed behind it.

        Image states depend on nothing behind them. Their bits may still depend on the *number* of
        packed tokens, because kernels depend on sizes.

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
        """Run B images, each with all its questions packed behind it.

        Args:
            pixels: Each image as ``pixels`` returns it.
            texts: Per image the token ids of each question; may be empty.

        Returns:
            States in the encoder's dtype and on its device.
        """
        features = image_features(self.model, self._transfer.upload(torch.stack(list(pixels))))
        rows = [
            _Row(image, number == 0, group)
            for image, asked in enumerate(texts)
            for number, group in enumerate(chunks(asked, MAX_TEXT_TOKENS))
        ]
        lengths = [sum(map(len, row.texts)) for row in rows]
        parts = [
            self._decoder.run(
                torch.stack([features[row.image] for row in chosen]), [row.texts for row in chosen]
            )
            for group in row_groups(lengths, MAX_TEXT_TOKENS)
            for chosen in [rows[group.start : group.stop]]
        ]
        begins = self._transfer.upload(
            torch.tensor([place for place, row in enumerate(rows) if row.begins])
        )
        images, words = (
            {n: torch.cat([states[n] for states in found]) for n in self.layers}
            for found in zip(*parts, strict=True)
        )
        return LlavaBatch(
            image_tokens={n: states.index_select(0, begins) for n, states in images.items()},
            text_tokens=words,
        )


def end_tower(model: Any) -> None:
    """Drop the layers of a ``LlavaModel``'s tower behind those that the projector reads.

    LLaVA-1.5 reads the last layer but one.
    """
    tower, config = model.vision_tower, model.config
    depth = len(tower.encoder.layers)
    read = config.vision_feature_layer
    places = [place % (depth + 1) for place in ([read] if isinstance(read, int) else read)]
    tower.encoder.layers = tower.encoder.layers[: max(places)]
    config.vision_feature_layer = places[0] if isinstance(read, int) else places


def image_features(model: Any, pixels: Tensor) -> Tensor:
    """Return what stands for B images in the language model's input, shape (B, N, d)."""
    output = model.get_image_features(pixel_values=pixels.to(model.dtype))
    return torch.stack(list(output.pooler_output))
