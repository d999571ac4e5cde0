"""LLaVA's prompt as token ids; reads no weights."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from transformers import AutoProcessor
from transformers.utils import logging as transformers_logging

from lens_cache.errors import CheckpointError, ConfigError, one_line

SYSTEM = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions."
)
# Conversation template "vicuna_v1" of LLaVA, as the released LENS code uses it.
VICUNA_V1 = "{system} USER: <image>\n{question} ASSISTANT:"


@contextmanager
def quiet() -> Iterator[None]:
    """Silence transformers' progress bars and warnings; callers check what they report."""
    verbosity = transformers_logging.get_verbosity()
    bars = transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        if bars:
            transformers_logging.enable_progress_bar()


def load_processor(folder: Path) -> Any:
    """Load tokenizer and image processor of a Hugging Face LLaVA folder.

    Uses the Pillow image processor, because its result depends neither on the version of
    torchvision nor on the CPU.

    Raises:
        CheckpointError: If files are missing or do not describe a LLaVA processor.
    """
    try:
        with quiet():
            processor = AutoProcessor.from_pretrained(folder, local_files_only=True, backend="pil")
    except (OSError, ValueError, KeyError, TypeError, ImportError) as error:
        raise CheckpointError(
            f"loading the LLaVA processor of {folder}: {one_line(error)}; give a complete Hugging "
            "Face LLaVA folder"
        ) from None
    if getattr(processor, "patch_size", None) is None or not hasattr(processor, "image_token_id"):
        raise CheckpointError(
            f"loading the LLaVA processor of {folder}: expected a LlavaProcessor with a "
            f"patch_size in processor_config.json, found {type(processor).__name__} without; "
            "download the checkpoint again, older versions lack it"
        )
    return processor


def square_side(processor: Any) -> int:
    """Return the side of the vision tower's input, in pixels (336).

    Raises:
        CheckpointError: If the image processor would crop a square image.
    """
    size, crop = processor.image_processor.size, processor.image_processor.crop_size
    resized = size.shortest_edge or size.height
    if not crop.height == crop.width == resized:
        raise CheckpointError(
            f"reading LLaVA's image processor: expected one that does not crop a square image, "
            f"found one that resizes to {resized} and crops to {crop.width} x {crop.height}; this "
            "LLaVA is not supported"
        )
    return int(resized)


@dataclass(frozen=True)
class PromptTokens:
    """Token ids of a prompt, without those of the image.

    Attributes:
        prefix_ids: Ids before the image, the same for every question.
        text_ids: Ids after the image: the question and ``ASSISTANT:``.
    """

    prefix_ids: tuple[int, ...]
    text_ids: tuple[int, ...]


class LlavaPrompt:
    """Turns questions into the same token ids as the model's own processor.

    Attributes:
        processor: The Hugging Face processor.
        prefix_ids: Ids before the image.
        image_token_id: Id of an image token, one for each cell of the grid.
        num_image_tokens: Image tokens of an image (576).
        grid: (rows, columns) of the image tokens.
    """

    template = VICUNA_V1

    def __init__(self, processor: Any) -> None:
        """Find prefix and image tokens by running the processor once on a blank image.

        Args:
            processor: The Hugging Face processor of a LLaVA.

        Raises:
            CheckpointError: If the image tokens are not one run of rows x columns tokens.
        """
        self.processor = processor
        self.image_token_id = int(processor.image_token_id)
        side = square_side(processor)
        blank = Image.fromarray(np.zeros((side, side, 3), dtype=np.uint8))
        inputs = processor(text=self.text("?"), images=blank, return_tensors="np")
        ids = [int(token) for token in inputs["input_ids"][0]]
        rows, columns = (n // processor.patch_size for n in inputs["pixel_values"].shape[-2:])
        self.grid = (rows, columns)
        self.num_image_tokens = ids.count(self.image_token_id)
        start = ids.index(self.image_token_id) if self.num_image_tokens else 0
        self.prefix_ids = tuple(ids[:start])
        end = start + self.num_image_tokens
        if self.num_image_tokens != rows * columns or self.image_token_id in ids[end:]:
            raise CheckpointError(
                f"reading LLaVA's prompt: expected {rows} x {columns} image tokens in one run, "
                f"found {self.num_image_tokens}; patch_size, vision_feature_select_strategy and "
                "num_additional_image_tokens of processor_config.json do not fit together"
            )
        if self.token_ids("?").text_ids != tuple(ids[end:]):
            raise CheckpointError(
                "reading LLaVA's prompt: the tokens after the image depend on the number of image "
                "tokens; this tokenizer is not supported"
            )

    @classmethod
    def from_folder(cls, folder: Path) -> LlavaPrompt:
        """Load tokenizer and image processor of a Hugging Face LLaVA folder.

        Raises:
            CheckpointError: If they are missing or do not fit together.
        """
        return cls(load_processor(folder))

    def text(self, question: str) -> str:
        """Return the whole prompt, with one ``<image>`` token that the processor expands."""
        return self.template.format(system=SYSTEM, question=question)

    def token_ids(self, question: str) -> PromptTokens:
        """Tokenise the prompt of a question.

        Args:
            question: The instruction as a question, e.g. "What is the orange in this image?".

        Raises:
            ConfigError: If the question is blank, contains the image token or is not valid Unicode.
        """
        if not question.strip():
            raise ConfigError("tokenising an instruction: expected some text, found none")
        try:
            ids = self.processor.tokenizer(self.text(question), verbose=False)["input_ids"]
        except (UnicodeEncodeError, TypeError) as error:
            raise ConfigError(
                f"tokenising the instruction {question[:80]!r}: {one_line(error, 100)}"
            ) from None
        if ids.count(self.image_token_id) != 1:
            raise ConfigError(
                f"tokenising the instruction {question[:80]!r}: it contains "
                f"{self.processor.image_token}, which is reserved for the image; remove it"
            )
        start = ids.index(self.image_token_id)
        if tuple(ids[:start]) != self.prefix_ids:
            raise ConfigError(
                f"tokenising the instruction {question[:80]!r}: it changes the tokens before the "
                "image; rephrase it"
            )
        return PromptTokens(prefix_ids=self.prefix_ids, text_ids=tuple(ids[start + 1 :]))
