import collections
import dataclasses
import shutil

import pytest

from lens_cache.config.data import DataConfig
from lens_cache.datasets.base import QueryRecord
from lens_cache.datasets.questions import NUM_LONG, NUM_SHORT, PUBLISHED, Choice, ask, seeded_choice
from lens_cache.errors import ConfigError
from lens_cache.images import masks
from lens_cache.plan.build import build_plan
from tests.support.pictures import write_coco
from tests.support.pictures import write_image as write
from tests.unit.plan.test_plan import jsonl, line

EMPTY = masks.empty(8, 12)


def query(instruction="The Orange", length="short", split="train", **more):
    kind = more.pop("kind", "class")
    return QueryRecord(instruction, kind, length, split, target=EMPTY, ignore=None, **more)


def asked(query, template, *, phrasing=0, templates="lisa"):
    return ask(query, Choice(phrasing, template), DataConfig(templates=templates))[1]


def test_lisa_short():
    assert [asked(query(), n) for n in range(4)] == [
        "Can you segment the the orange in this image?",
        "Please segment the the orange in this image.",
        "What is the orange in this image? Please respond with segmentation mask.",
        "What is the orange in this image? Please output segmentation mask.",
    ]


def test_lisa_long_keeps_its_case():
    long = query(" Who is Ann? ", "long")
    assert asked(long, 0) == "Who is Ann? Please respond with segmentation mask."
    assert asked(long, 1) == "Who is Ann? Please output segmentation mask."


def test_lens():
    assert [asked(query(), n, templates="lens") for n in range(4)] == [
        "Can you segment the the orange in this image?",
        "Please segment the the orange in this image.",
        "What is the orange in this image?",
        "What is the orange in this image?",
    ]
    assert [asked(query("Who?", "long"), n, templates="lens") for n in range(2)] == ["Who?"] * 2


@pytest.mark.parametrize(
    ("templates", "short", "long"),
    [
        (
            "lisa",
            " What is {} in this image? Please output segmentation mask.",
            " {} Please output segmentation mask.",
        ),
        ("lens", "What is {} in this image?", " {}"),
    ],
)
def test_evaluation_has_one_prompt(templates, short, long):
    for split in ("val", "testA"):
        for template in range(2):
            referring = query(" Man On Left", kind="referring", split=split)
            assert asked(referring, template, templates=templates) == short.format("man on left")
            reasoning = query("The TV", kind="reasoning", split=split)
            assert asked(reasoning, template, templates=templates) == short.format("The TV")
            sentence = query("Who is Ann?", "long", kind="reasoning", split=split)
            assert asked(sentence, template, templates=templates) == long.format("Who is Ann?")


def test_a_question_that_is_set_is_asked_as_it_is():
    for templates in ("fixed", "lens", "lisa"):
        assert asked(query(question="Where IS it?"), 1, templates=templates) == "Where IS it?"


def test_braces_in_an_instruction_stay():
    assert asked(query("a {} and {0}"), 0) == "Can you segment the a {} and {0} in this image?"


def test_another_phrasing_takes_the_place_of_the_instruction():
    part = query("bus wheel", alternatives=("the wheel of the bus",))
    config = DataConfig(templates="fixed")
    assert ask(part, Choice(1, 0), config) == (
        "the wheel of the bus",
        "What is the wheel of the bus in this image?",
    )


def test_both_publications_draw_from_as_many():
    for published in PUBLISHED.values():
        assert (len(published.short), len(published.long)) == (NUM_SHORT, NUM_LONG)


def test_draws_are_even_and_follow_from_their_arguments():
    part = query("bus wheel", alternatives=("the wheel of the bus",))
    drawn = [seeded_choice(part, place, ("id", "set"), 0) for place in range(800)]
    assert drawn == [seeded_choice(part, place, ("id", "set"), 0) for place in range(800)]
    counts = collections.Counter(drawn)
    assert len(counts) == 8
    assert all(60 < count < 140 for count in counts.values())
    for other in (
        [seeded_choice(part, place, ("id", "set"), 1) for place in range(800)],
        [seeded_choice(part, place, ("other", "set"), 0) for place in range(800)],
        [seeded_choice(part, place, ("id", "other"), 0) for place in range(800)],
        [seeded_choice(query("x", alternatives=("y",)), n, ("id", "set"), 0) for n in range(800)],
    ):
        assert sum(a == b for a, b in zip(drawn, other, strict=True)) < 200
    long = query("Who?", "long")
    assert {seeded_choice(long, n, ("id", "set"), 0).template for n in range(40)} == {0, 1}


def test_choices_do_not_depend_on_the_order_of_planning(tmp_path):
    names = [f"{k}.png" for k in range(8)]
    for seed, name in enumerate(names):
        write(tmp_path / name, seed=seed)
    lines = [line(name, word) for name in names for word in ("cup", "jug", "pot")]
    plans = []
    for order in (lines, lines[12:] + lines[:12]):
        plan = build_plan(jsonl(tmp_path, order, templates="lisa"))
        plans.append({row["query_id"]: row["question"] for row in plan.queries.to_pylist()})
    assert plans[0] == plans[1]
    assert len({question.replace("jug", "cup") for question in plans[0].values()}) >= 4


def test_the_cap_keeps_some_queries_in_their_order(tmp_path):
    root = write_coco(tmp_path, num_images=12)
    config = DataConfig(root=root, split="train2017")
    whole, capped, again, other = (
        build_plan(dataclasses.replace(config, queries_per_image=cap, seed=seed))
        for cap, seed in ((None, 0), (2, 0), (2, 0), (2, 1))
    )
    assert capped.digest() == again.digest() != other.digest()
    dropped = set()
    for index in range(12):
        everything = [query.query_id for query in whole.queries_of(index)]
        kept = [query.query_id for query in capped.queries_of(index)]
        assert kept == [query for query in everything if query in kept]
        assert len(kept) == 2 < len(everything)
        dropped |= {everything.index(query) for query in everything if query not in kept}
    assert len(dropped) >= 3  # not always the last


def test_the_cap_counts_by_image_and_set(tmp_path):
    write(tmp_path / "a.png")
    shutil.copy(tmp_path / "a.png", tmp_path / "b.png")
    lines = [line(name, f"{name} {n}") for name in ("a.png", "b.png") for n in range(3)]
    plan = build_plan(jsonl(tmp_path, lines, queries_per_image=2))
    assert (plan.num_images, plan.num_queries) == (1, 4)


def test_a_fixed_template_without_instruction_is_refused():
    with pytest.raises(ConfigError, match="must contain"):
        ask(query(), Choice(0, 0), DataConfig(short_question="What?"))
