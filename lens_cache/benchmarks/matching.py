"""Find the chosen option in an answer: the exact matching of VLMEvalKit, without a judge.

Source: ``vlmeval/utils/matching_util.py`` and ``vlmeval/dataset/utils/yorn.py``. An answer from
which no option can be found is wrong; nothing is drawn at random.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

# Set apart from the letters of options.
_PUNCTUATION = str.maketrans(dict.fromkeys(".()[],:;!*#{}", " "))
# An answer with one of them chooses nothing, whatever letters it contains.
_REFUSALS = (
    "Sorry, I can't help with images of people yet.",
    "I can't process this file.",
    "I'm sorry, but without the image provided",
    "Cannot determine the answer",
)
# The letter of an option counts among so many last words only.
_LAST_WORDS = 4
_WORD = re.compile(r"[^\W_]+")


def chosen_option(answer: str, options: Mapping[str, str]) -> str | None:
    """Return the letter of the option that an answer chooses; None if it is not clear.

    The answer contains the letter of exactly one option as a word, first among its last four words,
    or otherwise the text of exactly one option, in any case; a text that is over twice as long as
    all options together is no choice.
    """
    if any(refusal in answer for refusal in _REFUSALS):
        return None
    words = answer.translate(_PUNCTUATION).split()
    letters = [letter for letter in options if letter in words]
    if len(letters) == 1 and words.index(letters[0]) >= len(words) - _LAST_WORDS:
        return letters[0]
    if len(answer) > 2 * sum(map(len, options.values())):
        return None
    found = [letter for letter, text in options.items() if text.lower() in answer.lower()]
    return found[0] if len(found) == 1 else None


def yes_or_no(answer: str) -> str | None:
    """Return ``Yes`` or ``No`` if an answer contains exactly one of the two words."""
    words = set(_WORD.findall(answer.lower()))
    if ("yes" in words) == ("no" in words):
        return None
    return "Yes" if "yes" in words else "No"
