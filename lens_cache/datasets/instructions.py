"""From a dataset's words to the question that the multimodal LLM is asked."""

from __future__ import annotations

import re

from lens_cache.data_config import DataConfig
from lens_cache.datasets.base import Length
from lens_cache.errors import ConfigError

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
