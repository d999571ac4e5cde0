"""The question of a query: from the two templates of the settings, or the published templates.

In training, LISA and the released LENS code draw one of four templates for a short instruction and
one of two for a sentence; in evaluation each uses one fixed prompt. The text before the question
(system text, ``<image>`` and its newline) is added by ``encoders.llava_prompt``: a text here starts
after that newline. Some of the published evaluation prompts start with a blank. It is kept, because
it changes the tokens.

Limit of the comparison: LISA wraps the image in two tokens of its own and calls the user a "human"
in the system text; here the prompt is that of LLaVA-1.5 and LENS.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from typing import NamedTuple

from lens_cache.config.data import DataConfig, Templates
from lens_cache.datasets.base import Length, QueryRecord
from lens_cache.errors import ConfigError


@dataclass(frozen=True)
class Published:
    """The question templates of a publication; ``{}`` is replaced by the instruction.

    ``answers`` is the number of answers that its sampler draws from; they are not used here.
    """

    short: tuple[str, ...]
    long: tuple[str, ...]
    evaluation_short: str
    evaluation_long: str
    answers: int


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
        answers=5,
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
        answers=1,
    ),
}
# LLaVA's prompt has it once, where the image is; a question that contains it cannot be asked.
IMAGE_TOKEN = "<image>"
# Number of templates to draw from, the same in both publications.
NUM_SHORT, NUM_LONG = 4, 2


class Choice(NamedTuple):
    """The draw of a query: index of its phrasing (0 is ``instruction``) and of its template."""

    phrasing: int
    template: int


def phrasings(query: QueryRecord) -> tuple[str, ...]:
    """Return all wordings of a query; the first one is ``instruction``."""
    return (query.instruction, *query.alternatives)


def num_templates(query: QueryRecord) -> int:
    """Return the number of question templates to draw from."""
    return NUM_LONG if query.length == "long" else NUM_SHORT


def num_answers(templates: Templates) -> int:
    """Return the number of answers that a sampler draws from; ``fixed`` follows LISA."""
    return PUBLISHED["lisa" if templates == "fixed" else templates].answers


def seeded_choice(query: QueryRecord, position: int, where: tuple[str, str], seed: int) -> Choice:
    """Draw phrasing and template of a query; the result depends only on the arguments.

    Args:
        query: The query.
        position: Its position among the queries of its record.
        where: Id of the image, and name of the dataset.
        seed: Seed of the draw.
    """
    words = (*where, query.instruction, position)
    return Choice(
        phrasing=seeded(seed, "phrasing", *words) % len(phrasings(query)),
        template=seeded(seed, "template", *words) % num_templates(query),
    )


def seeded(seed: int, *words: str | int) -> int:
    """Return an unsigned 64-bit integer that depends only on the arguments."""
    digest = hashlib.sha256(json.dumps([seed, *words]).encode()).digest()
    return int.from_bytes(digest[:8], "big")


def ask(query: QueryRecord, choice: Choice, config: DataConfig) -> tuple[str, str]:
    """Return the drawn instruction and its question.

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
        # LISA lower-cases the sentences of RefCOCO when it reads them, but never ReasonSeg's.
        lower = not long and query.kind != "reasoning"
    text = instruction.strip()
    return instruction, template.replace("{}", text.lower() if lower else text)


def is_training(split: str) -> bool:
    """Return whether a split is a training split: ``train``, ``train2017``, ..."""
    return split.startswith("train")


_MATERIALS = frozenset({"brick", "concrete", "marble", "panel", "stone", "tile", "wood"})
_COMPOUNDS = {"window-blind": "window blind", "playingfield": "playing field"}
_OPENINGS = frozenset(
    {"can", "could", "would", "will", "please", "segment", "find", "show", "identify", "locate"}
    | {"highlight", "tell", "which", "what", "where", "who", "whose", "why", "when", "how"}
    | {"is", "are", "does", "do", "if"}
)


def clean_class_name(name: str) -> str:
    """Return a category's name as readable lower-case words.

    * COCO's suffixes are removed: "wall-other-merged" becomes "wall", "door-stuff" "door".
    * A material moves to the front: "wall-brick" becomes "brick wall".
    * LVIS's and PACO's remarks are removed: "bow_(weapon)" becomes "bow". Underscores become
      spaces.
    * Other hyphens are kept ("t-shirt"), except in COCO's "window-blind", which becomes "window
      blind".
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
    """Return whether an instruction is a sentence, which is used as a question as it is.

    A sentence ends with a question or exclamation mark; or has at least three words and begins
    like a question or a request ("which ...", "please ..."); or has at least six words and ends
    with a full stop. Everything else is a phrase: "the man in the red shirt".
    """
    text = instruction.strip()
    words = text.split()
    if text.endswith(("?", "!", "\uff1f", "\uff01")):
        return True
    if len(words) >= 3 and words[0].lower().strip(",:'\"") in _OPENINGS:
        return True
    return len(words) >= 6 and text.endswith((".", "\u3002"))


def question(instruction: str, length: Length, config: DataConfig) -> str:
    """Return the question for an instruction, from the template of the settings for its length.

    Raises:
        ConfigError: If the template lacks ``{instruction}``.
    """
    name = f"{length}_question"
    template = config.short_question if length == "short" else config.long_question
    if "{instruction}" not in template:
        raise ConfigError(f"data.{name} must contain {{instruction}}, got {template!r}")
    return template.replace("{instruction}", instruction.strip()).strip()
