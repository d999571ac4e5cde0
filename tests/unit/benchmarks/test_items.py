"""The files of the benchmarks: what is asked, what is right, and what is refused."""

import base64

import pytest

from lens_cache.benchmarks.items import read_benchmark
from lens_cache.benchmarks.prompts import choice_prompt
from lens_cache.benchmarks.table import write_rows
from lens_cache.errors import DatasetError

PICTURE = base64.b64encode(bytes(range(90))).decode()
OTHER = base64.b64encode(bytes(range(90, 180))).decode()


def row(index, **cells):
    return {"index": str(index), "image": PICTURE, "category": "c", **cells}


def choice(index, **cells):
    options = {"question": "What is it?", "A": "a cup", "B": "a dog", "answer": "B"}
    return row(index, **{**options, **cells})


def write(tmp_path, name, rows, drop=()):
    columns = [one for one in dict.fromkeys(name for r in rows for name in r) if one not in drop]
    path = tmp_path / name
    path.write_bytes(write_rows(columns, [{k: r.get(k, "") for k in columns} for r in rows]))
    return path


def test_the_prompt_of_a_choice_has_hint_question_options_and_request():
    text = choice_prompt("What is it?", {"A": "a cup", "B": "a dog"}, hint="Look closely.")
    assert text == (
        "Look closely.\nWhat is it?\nA. a cup\nB. a dog\n"
        "Answer with the option's letter from the given choices directly."
    )
    assert choice_prompt("How many?", {}) == "How many?\nAnswer the question directly."


def test_mme_pairs_the_questions_about_an_image(tmp_path):
    rows = [
        row(0, question="Is it red? Please answer yes or no.", answer="Yes", image_path="a.png"),
        row(1, question="Is it blue? Please answer yes or no.", answer="No", image_path="a.png"),
    ]
    benchmark = read_benchmark(write(tmp_path, "MME.tsv", rows))
    first, second = benchmark.items
    assert first.prompt == "Is it red? Please answer yes or no."
    assert first.group == second.group == "a.png"
    assert [first.is_right(said) for said in ("yes", "Yes, it is.", "no", "maybe")] == [
        True, True, False, False,
    ]  # fmt: skip
    assert first.guess == 0.5


def test_rotations_of_a_question_are_one_group(tmp_path):
    rows = [choice(3), choice(1_000_003, A="a dog", B="a cup", answer="A"), choice(4)]
    items = read_benchmark(write(tmp_path, "MMBench_DEV_EN.tsv", rows)).items
    assert [item.group for item in items] == ["3", "3", "4"]
    assert items[1].is_right("A. a dog")
    assert items[0].options == {"A": "a cup", "B": "a dog"}


def test_the_first_questions_have_all_their_rotations(tmp_path):
    rows = [choice(turn * 1_000_000 + number) for turn in range(2) for number in range(3)]
    benchmark = read_benchmark(write(tmp_path, "MMBench_DEV_EN.tsv", rows)).first(2)
    assert [item.row.index for item in benchmark.items] == [0, 1, 1_000_000, 1_000_001]


def test_a_row_may_share_the_picture_of_another_row(tmp_path):
    rows = [choice(0, image=OTHER), choice(1), choice(2, image="0")]
    items = read_benchmark(write(tmp_path, "MMStar.tsv", rows)).items
    assert items[2].row.images() == [base64.b64decode(OTHER)]


def test_mmmu_has_several_images_open_questions_and_other_splits(tmp_path):
    both = f"['{PICTURE}', '{OTHER}']"
    rows = [
        choice(0, split="validation", question="<image 1> or <image 2>?", image=both),
        row(1, split="validation", question="How many?", answer="12"),
        choice(2, split="dev"),
    ]
    first, second = read_benchmark(write(tmp_path, "MMMU_DEV_VAL.tsv", rows)).items
    assert first.prompt.startswith("image 1 or image 2?\nA. a cup")
    assert len(first.row.images()) == 2
    assert second.options == {}
    assert second.guess == 0
    assert second.is_right("It is 12")
    assert not second.is_right("Other Answers")
    assert not second.is_right("13")


def test_a_file_without_answers_is_for_submission(tmp_path):
    path = write(tmp_path, "MMBench_TEST_EN.tsv", [choice(0, answer="")], drop=["answer"])
    benchmark = read_benchmark(path)
    assert not benchmark.has_answers
    assert not benchmark.items[0].is_right("B")


@pytest.mark.parametrize(
    ("name", "rows", "drop", "message"),
    [
        ("MME.tsv", [choice(0)], ["category"], "found no category"),
        ("MMStar.tsv", [choice(0, answer="C")], [], r"line 2, column answer: expected one of A, B"),
        ("MMStar.tsv", [choice(0), choice(0)], [], "line 3: a second row with the index 0"),
        ("MMStar.tsv", [choice("x")], [], "expected a number in the column index, found 'x'"),
        ("MMStar.tsv", [choice(0, question=" ")], [], "expected a text in the column question"),
        ("MMStar.tsv", [choice(0, image="7")], [], "or the index of another row, found '7'"),
        ("MMStar.tsv", [], [], "found no index and no image"),
        ("MMStar.tsv", [choice(0, B="")], [], "expected at least two options"),
        (
            "MME.tsv",
            [row(0, question="Is it?", answer="maybe", image_path="a.png")],
            [],
            "expected Yes or No",
        ),
        ("MMMU_DEV_VAL.tsv", [choice(0, split="dev")], [], "expected questions to evaluate"),
        ("MMStar.tsv", [choice("inf")], [], "expected a number in the column index, found 'inf'"),
        ("MMStar.tsv", [choice(0, answer="")], [], "line 2: expected a text in the column answer"),
        ("MMBench_DEV_EN.tsv", [choice(0), choice(1, answer="")], [], "line 3, column answer"),
        ("MME.tsv", [row(0, question="Is it?", answer="No")], [], "found no image_path"),
        (
            "MME.tsv",
            [row(0, question="Is it?", answer="No", image_path="a.png")],
            [],
            "expected two questions about 'a.png' in the category 'c', found one",
        ),
        ("other.tsv", [choice(0)], [], "expected a name that begins with MME, MMBench"),
    ],
)
def test_bad_files_are_named(tmp_path, name, rows, drop, message):
    with pytest.raises(DatasetError, match=message):
        read_benchmark(write(tmp_path, name, rows, drop))


@pytest.mark.parametrize("image", ["?" * 100, "[]", "['abc", f"['{PICTURE}', '%%%']"])
def test_broken_base64_is_named(tmp_path, image):
    items = read_benchmark(write(tmp_path, "MMStar.tsv", [choice(0, image=image)])).items
    with pytest.raises(DatasetError, match=r"MMStar.tsv, line 2, column image: expected"):
        items[0].row.images()
