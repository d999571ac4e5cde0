"""Which option an answer chooses: cases of VLMEvalKit's exact matching."""

import pytest

from lens_cache.benchmarks.matching import chosen_option, yes_or_no

OPTIONS = {"A": "a red cup", "B": "Blue", "C": "green", "D": "12"}


@pytest.mark.parametrize(
    ("answer", "letter"),
    [
        ("B", "B"),
        ("B.", "B"),
        ("(C)", "C"),
        ("The answer is D", "D"),
        ("b", None),  # letters are capital
        ("blue", "B"),  # the text in any case
        ("It is BLUE!", "B"),
        ("A or B", None),
        ("blue and green", None),
        ("AB", None),
        ("", None),
        ("12", "D"),
        # More than twice as long as all options together: no choice by text.
        ("blue " * 12, None),
        # The letter first, and more than three words after it: no choice by letter.
        ("B as we all can see", None),
        ("I choose B as we see", "B"),
        ("Cannot determine the answer. B", None),
        ("Sure, the segmentation result is generated.", None),
    ],
)
def test_an_option_is_chosen_by_its_letter_or_its_text(answer, letter):
    assert chosen_option(answer, OPTIONS) == letter


@pytest.mark.parametrize(
    ("answer", "found"),
    [
        ("Yes", "Yes"),
        ("no.", "No"),
        ("Yes, there is one.", "Yes"),
        ("yes or no", None),
        ("There is none.", None),
        ("I know", None),
        ("", None),
        ("Answer:no", "No"),
    ],
)
def test_yes_and_no_are_words(answer, found):
    assert yes_or_no(answer) == found
