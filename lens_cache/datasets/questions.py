"""The question asked about a query: the two of the settings, or the published ones.

LISA and the released LENS code draw one of four questions around a short instruction and one of two
around a sentence while they train, and use one fixed prompt each when they evaluate. What stands
before a question (LISA's ``<image>`` and its newline, the system text) is the prompt's business
(``encoders.prompt``): a text here is what follows the newline. Some of the published evaluation
prompts have a blank there, which makes other tokens, so it is kept.

What cannot be compared: LISA wraps the image into two tokens of its own and calls the user a
"human" in the system text; here the prompt is that of LLaVA-1.5 and of LENS.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from typing import NamedTuple

from lens_cache.config.data import DataConfig
from lens_cache.datasets.base import Length, QueryRecord
from lens_cache.errors import ConfigError


@dataclass(frozen=True)
class Published:
    """The questions of a publication; ``{}`` stands for the instruction."""

    short: tuple[str, ...]
    long: tuple[str, ...]
    evaluation_short: str
    evaluation_long: str


# LISA: utils/utils.py and ValDataset; LENS: its qa_template.py and TestReasoningDataset.
PUBLISHED = {
    "lisa": Published(
        short=(
            "Can you segment the {} in this image?",
            "Please segment the {} in this image.",
            "What is {} in this image? Please respond with segmentation mask.",
            "What is {} in this image? Please output segmentation mask.",
        ),
        long=(
            "{} Please respond with segmentation mask.",
            "{} Please output segmentation mask.",
        ),
        evaluation_short=" What is {} in this image? Please output segmentation mask.",
        evaluation_long=" {} Please output segmentation mask.",
    ),
    "lens": Published(
        short=(
            "Can you segment the {} in this image?",
            "Please segment the {} in this image.",
            "What is {} in this image?",
            "What is {} in this image?",
        ),
        long=("{}", "{}"),
        evaluation_short="What is {} in this image?",
        evaluation_long=" {}",
    ),
}
# Both publications draw from so many, so that their samplers use up equally much randomness.
NUM_SHORT, NUM_LONG = 4, 2


class Choice(NamedTuple):
    """What was drawn for a query: the phrasing (0 is ``instruction``), and the question."""

    phrasing: int
    template: int


def phrasings(query: QueryRecord) -> tuple[str, ...]:
    """Return every way to say what a query means, the dataset's own first."""
    return (query.instruction, *query.alternatives)


def num_templates(query: QueryRecord) -> int:
    """Return how many questions there are to draw from."""
    return NUM_LONG if query.length == "long" else NUM_SHORT


def seeded_choice(query: QueryRecord, position: int, where: tuple[str, str], seed: int) -> Choice:
    """Draw phrasing and question of a query; nothing but the arguments decides.

    Args:
        query: The query.
        position: Its place among the queries of its record.
        where: Id of the image, and name of the dataset.
        seed: Decides the draw.
    """
    words = (*where, query.instruction, position)
    return Choice(
        phrasing=seeded(seed, "phrasing", *words) % len(phrasings(query)),
        template=seeded(seed, "template", *words) % num_templates(query),
    )


def seeded(seed: int, *words: str | int) -> int:
    """Return a number of 64 bits that follows from the arguments alone."""
    digest = hashlib.sha256(json.dumps([seed, *words]).encode()).digest()
    return int.from_bytes(digest[:8], "big")


def ask(query: QueryRecord, choice: Choice, config: DataConfig) -> tuple[str, str]:
    """Return the instruction that was drawn, and the question that asks for it.

    Raises:
        ConfigError: If a template of the settings lacks ``{instruction}``.
    """
    instruction = phrasings(query)[choice.phrasing]
    if query.question:
        return instruction, query.question
    if config.templates == "fixed":
        return instruction, question(instruction, query.length, config)
    published = PUBLISHED[config.templates]
    if is_training(query.split):
        templates = published.long if query.length == "long" else published.short
        template = templates[choice.template]
        lower = query.length == "short"
    else:
        long = query.length == "long"
        template = published.evaluation_long if long else published.evaluation_short
        # LISA lower-cases the sentences of RefCOCO when it reads them, ReasonSeg's never.
        lower = not long and query.kind != "reasoning"
    text = instruction.strip()
    return instruction, template.replace("{}", text.lower() if lower else text)


def is_training(split: str) -> bool:
    """Tell whether a split is one to train on: ``train``, ``train2017``, ..."""
    return split.startswith("train")


_MATERIALS = frozenset({"brick", "concrete", "marble", "panel", "stone", "tile", "wood"})
_COMPOUNDS = {"window-blind": "window blind", "playingfield": "playing field"}
_OPENINGS = frozenset(
    {"can", "could", "would", "will", "please", "segment", "find", "show", "identify", "locate"}
    | {"highlight", "tell", "which", "what", "where", "who", "whose", "why", "when", "how"}
    | {"is", "are", "does", "do", "if"}
)


def clean_class_name(name: str) -> str:
    """Turn a category's name into readable lower-case words.

    * COCO's bookkeeping goes: "wall-other-merged" is "wall", "door-stuff" is "door".
    * A material stands before what is made of it: "wall-brick" is "brick wall".
    * LVIS's and PACO's remarks go: "bow_(weapon)" is "bow"; underscores are spaces.
    * Other hyphens stay ("t-shirt"), but for COCO's "window-blind", which is "window blind".
    """
    text = re.sub(r"[_ ]*\([^()]*\)", "", name.lower()).replace("_", " ")
    text = " ".join(text.split())
    text = re.sub(r"(?<=.)(-(other|merged|stuff))+$", "", text)
    if text in _COMPOUNDS:
        return _COMPOUNDS[text]
    thing, hyphen, material = text.rpartition("-")
    if hyphen and thing and material in _MATERIALS:
        return f"{material} {thing}"
    return text or " ".join(name.split())


def is_long(instruction: str) -> bool:
    """Tell whether an instruction reads as a sentence, so that no question is put around it.

    That is: it ends with a question or exclamation mark; or has three words or more and opens like
    a question or a request ("which ...", "please ..."); or has six words or more and ends with a
    full stop. Everything else names a thing: "the man in the red shirt".
    """
    text = instruction.strip()
    words = text.split()
    if text.endswith(("?", "!", "\uff1f", "\uff01")):
        return True
    if len(words) >= 3 and words[0].lower().strip(",:'\"") in _OPENINGS:
        return True
    return len(words) >= 6 and text.endswith((".", "\u3002"))


def question(instruction: str, length: Length, config: DataConfig) -> str:
    """Return the question for an instruction: the template of its length, filled in.

    Raises:
        ConfigError: If the template lacks ``{instruction}``.
    """
    name = f"{length}_question"
    template = config.short_question if length == "short" else config.long_question
    if "{instruction}" not in template:
        raise ConfigError(f"data.{name} must contain {{instruction}}, got {template!r}")
    return template.replace("{instruction}", instruction.strip()).strip()
