"""LLaVA, frozen, run up to the tapped layer and no further."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from transformers import LlavaModel

from lens_cache.encoders.llava_weights import ATTENTION, load_config, load_model
from lens_cache.encoders.prompt import LlavaPrompt
from lens_cache.errors import ConfigError
from lens_cache.packing import block_mask, position_ids

# Questions packed into one forward hold at most so many tokens (unless one alone is longer): the
# attention mask grows with the square.
MAX_TEXT_TOKENS = 4096


@dataclass(frozen=True)
class LlavaFeatures:
    """States of one image and its questions, per tapped layer.

    Attributes:
        prefix: States of the system prefix, shape (P, d), the same for every image.
        image_tokens: States of the image, row-major over the grid, shape (N, d).
        text_tokens: States of each question, in order, shapes (T_q, d).
    """

    prefix: dict[int, Tensor]
    image_tokens: dict[int, Tensor]
    text_tokens: dict[int, list[Tensor]]


class LlavaEncoder:
    """The frozen LLaVA up to its last tapped layer; later layers and the LM head are not loaded.

    Attributes:
        attention_implementation: The attention kernel, as transformers names it.
        prompt: The prompt; ``prompt.token_ids(question).text_ids`` is what ``encode`` takes.
        layers: Tapped layers in ascending order.
        num_layers: Decoder layers of the whole model (32), not only of the loaded part.
        hidden_size: Width d of the states (4096).
        dtype: Precision of the weights, the forward pass and the states.
        device: Where the model runs.
    """

    attention_implementation = ATTENTION

    def __init__(
        self,
        model: Any,
        prompt: LlavaPrompt,
        *,
        layers: tuple[int, ...],
        num_layers: int,
        device: torch.device | str,
    ) -> None:
        self.prompt = prompt
        self.layers = layers
        self.num_layers = num_layers
        self.hidden_size = int(model.config.text_config.hidden_size)
        self.device = torch.device(device)
        self.dtype: torch.dtype = model.dtype
        self.model = model.to(self.device).eval().requires_grad_(False)

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
    def num_image_tokens(self) -> int:
        """How many tokens an image has (576)."""
        return self.prompt.num_image_tokens

    @property
    def grid(self) -> tuple[int, int]:
        """(rows, columns) of the image tokens (24, 24)."""
        return self.prompt.grid

    @torch.inference_mode()
    def encode(self, square: NDArray[np.uint8], texts: Sequence[Sequence[int]]) -> LlavaFeatures:
        """Run one image with all its questions, packed behind it.

        Prefix and image states depend on nothing behind them. Their bits may still depend on the
        *number* of packed tokens, because kernels depend on sizes.

        Args:
            square: The image from ``geometry.image_to_square``, shape (side, side, 3), any side.
            texts: Token ids of each question (``PromptTokens.text_ids``); may be empty.

        Returns:
            States in the encoder's dtype and on its device.

        Raises:
            ValueError: If ``square`` is not a square RGB image.
        """
        if square.ndim != 3 or square.shape[0] != square.shape[1] or square.shape[2] != 3:
            raise ValueError(f"square must have shape (side, side, 3), got {square.shape}")
        image = Image.fromarray(square)
        pixels = self.prompt.processor.image_processor(image, return_tensors="pt")["pixel_values"]
        pixels = pixels.to(self.device, self.dtype)
        forwards = [self._forward(pixels, chunk) for chunk in chunks(texts, MAX_TEXT_TOKENS)]
        start = len(self.prompt.prefix_ids)
        end = start + self.num_image_tokens
        return LlavaFeatures(
            prefix={n: forwards[0][n][0][:start] for n in self.layers},
            image_tokens={n: forwards[0][n][0][start:end] for n in self.layers},
            text_tokens={n: [text for one in forwards for text in one[n][1]] for n in self.layers},
        )

    def _forward(
        self, pixels: Tensor, texts: Sequence[Sequence[int]]
    ) -> dict[int, tuple[Tensor, list[Tensor]]]:
        """Return per layer the shared states (P + N, d) and the states of each text (T_q, d)."""
        prompt = self.prompt
        shared = [*prompt.prefix_ids, *[prompt.image_token_id] * prompt.num_image_tokens]
        lengths = [len(text) for text in texts]
        ids = torch.tensor([shared + [token for text in texts for token in text]])
        owner = torch.repeat_interleave(torch.arange(len(texts)), torch.tensor(lengths).long())
        output = self.model(
            input_ids=ids.to(self.device),
            pixel_values=pixels,
            attention_mask=additive_mask(block_mask(len(shared), owner[None]), self.dtype).to(
                self.device
            ),
            position_ids=position_ids(len(shared), owner[None]).to(self.device),
            use_cache=False,
            output_hidden_states=len(self.layers) > 1,
        )
        last = self.layers[-1]
        states = {n: output.hidden_states[n][0] for n in self.layers[:-1]}
        states[last] = output.last_hidden_state[0]
        return {
            n: (state[: len(shared)], list(state[len(shared) :].split(lengths)))
            for n, state in states.items()
        }


def additive_mask(allowed: Tensor, dtype: torch.dtype) -> Tensor:
    """Turn a bool mask into what is added to attention scores.

    transformers hands a 4-D mask to the kernel as it is; ``eager`` *adds* it, so that a bool mask
    would silently mean nothing there. An additive mask is right for every kernel.
    """
    return torch.zeros(allowed.shape, dtype=dtype).masked_fill(~allowed, torch.finfo(dtype).min)


def chunks(texts: Sequence[Sequence[int]], limit: int) -> Iterator[list[Sequence[int]]]:
    """Split texts, in order, into groups of at most ``limit`` tokens; at least one group."""
    group: list[Sequence[int]] = []
    total = 0
    for text in texts:
        if group and total + len(text) > limit:
            yield group
            group, total = [], 0
        group.append(text)
        total += len(text)
    yield group
