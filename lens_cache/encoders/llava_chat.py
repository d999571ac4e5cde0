"""The whole frozen LLaVA: it answers in words, and lends its states to LENS.

One set of weights serves both. Prefix and image run once through all layers; an answer continues
from their keys and values, and so does a question for a mask, through the first layers only. The
model is never modified and its own forward fills the cache, so its answers are the same bits with
and without LENS (invariant I11).
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from transformers import DynamicCache

from lens_cache.encoders.llava_checkpoint import load_config, load_whole
from lens_cache.encoders.llava_image import fork
from lens_cache.encoders.llava_prompt import LlavaPrompt
from lens_cache.encoders.llava_states import States
from lens_cache.errors import ConfigError


class LlavaChat:
    """A whole LLaVA for one tapped layer.

    Attributes:
        prompt: The prompt.
        layer: The tapped layer.
        model: The ``LlavaForConditionalGeneration``.
        device: Where it runs.
    """

    def __init__(
        self, model: Any, prompt: LlavaPrompt, *, layer: int, device: torch.device | str
    ) -> None:
        self.prompt = prompt
        self.layer = layer
        self.device = torch.device(device)
        self.model = model.to(self.device).eval().requires_grad_(False)
        self._first_layers = _first_layers(self.model.model.language_model, layer)

    @classmethod
    def from_checkpoint(
        cls,
        folder: Path,
        *,
        layer: int,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> LlavaChat:
        """Load all layers of a Hugging Face LLaVA folder.

        Raises:
            ConfigError: If the model has no such layer.
            CheckpointError: If files or weights are missing or do not fit.
        """
        depth = int(load_config(folder).text_config.num_hidden_layers)
        if not 1 <= layer <= depth:
            raise ConfigError(
                f"loading LLaVA from {folder}: expected a layer between 1 and {depth}, got {layer}"
            )
        prompt = LlavaPrompt.from_folder(folder)
        return cls(load_whole(folder, dtype), prompt, layer=layer, device=device)

    def read(self, square: NDArray[np.uint8]) -> ChatImage:
        """Run prefix and image once.

        Args:
            square: The image from ``geometry.image_to_square``, shape (side, side, 3).
        """
        return ChatImage(self, square)

    @property
    def first_layers(self) -> Any:
        """The language model up to the tapped layer; it shares all weights."""
        return self._first_layers


class ChatImage:
    """An image in the whole model, ready for answers and for masks.

    Attributes:
        prefix: States of the system prefix, shape (P, d), by tapped layer.
        image_tokens: States at the tapped layer, row-major over the grid, shape (N, d).
    """

    def __init__(self, chat: LlavaChat, square: NDArray[np.uint8]) -> None:
        self._chat = chat
        prompt = chat.prompt
        inputs = prompt.processor(
            text=prompt.text("?"), images=Image.fromarray(square), return_tensors="pt"
        ).to(chat.device)
        self._end = len(prompt.prefix_ids) + prompt.num_image_tokens
        self._ids = inputs["input_ids"][:, : self._end]
        self._cache = DynamicCache()
        with torch.inference_mode():
            output = chat.model.model(
                input_ids=self._ids,
                pixel_values=inputs["pixel_values"].to(chat.model.dtype),
                past_key_values=self._cache,
                use_cache=True,
                output_hidden_states=True,
            )
        states: Tensor = output.hidden_states[chat.layer][0]  # (P + N, d)
        start = len(prompt.prefix_ids)
        self.prefix: States = {chat.layer: states[:start]}
        self.image_tokens = states[start:]

    @torch.inference_mode()
    def text_tokens(self, texts: Sequence[Sequence[int]]) -> list[Tensor]:
        """Run questions after the image, each alone, through the first layers.

        Args:
            texts: Token ids of each question (``PromptTokens.text_ids``).

        Returns:
            States of each question at the tapped layer, shapes (T_q, d).
        """
        first_layers = self._chat.first_layers
        found = []
        for text in texts:
            output = first_layers(
                input_ids=torch.tensor([list(text)], device=self._chat.device),
                past_key_values=fork(self._cache, self._chat.layer),
                use_cache=True,
            )
            found.append(output.last_hidden_state[0])
        return found

    @torch.inference_mode()
    def answer(self, question: str, max_new_tokens: int) -> str:
        """Return the model's answer in words, by greedy decoding.

        Args:
            question: The question.
            max_new_tokens: Most tokens of the answer.

        Raises:
            ConfigError: If the question is blank or contains the image token.
        """
        text_ids = self._chat.prompt.token_ids(question).text_ids
        asked = torch.tensor([text_ids], device=self._chat.device)
        ids = torch.cat([self._ids, asked], dim=1)
        generated = self._chat.model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            past_key_values=fork(self._cache),
            max_new_tokens=max_new_tokens,
            do_sample=False,
        )
        tokenizer = self._chat.prompt.processor.tokenizer
        words: str = tokenizer.decode(generated[0, ids.shape[1] :], skip_special_tokens=True)
        return words.strip()


def _first_layers(language: Any, layer: int) -> Any:
    """Return a language model that ends before decoder layer ``layer``, without copying weights.

    If ``layer`` is the depth of the model, its final norm stays, as in ``hidden_states``.
    """
    first: Any = copy.copy(language)
    first.config = copy.copy(language.config)
    first.config.num_hidden_layers = layer
    first._modules = dict(language._modules)
    first.layers = language.layers[:layer]
    if layer < len(language.layers):
        first.norm = nn.Identity()
    return first
