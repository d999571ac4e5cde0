"""The text that a benchmark shows to the model, in one place: wordings move scores by points.

Source: the prompts of VLMEvalKit for LLaVA-1.5 (``vlmeval/vlm/llava``): a hint, the question and
lettered options stand on lines of their own, followed by what to answer.
"""

from __future__ import annotations

from collections.abc import Mapping

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
ANSWER_LETTER = "Answer with the option's letter from the given choices directly."
ANSWER_DIRECTLY = "Answer the question directly."
# MME's questions end with it.
ANSWER_YES_NO = "Please answer yes or no."


def choice_prompt(question: str, options: Mapping[str, str], hint: str = "") -> str:
    """Return the prompt of a question.

    Args:
        question: The question.
        options: Text of each option by its letter; none for an open question.
        hint: Text that belongs before the question; may be empty.
    """
    lines = [hint] if hint else []
    lines.append(question)
    lines += [f"{letter}. {text}" for letter, text in options.items()]
    lines.append(ANSWER_LETTER if options else ANSWER_DIRECTLY)
    return "\n".join(lines)
