import collections
import dataclasses
import json
import random

import numpy as np
import pyarrow as pa
import pytest

from lens_cache.config.data import DataConfig, LisaConfig, RatesConfig
from lens_cache.datasets.questions import PUBLISHED
from lens_cache.datasets.source import in_threads
from lens_cache.errors import ConfigError, DatasetError, StoreError
from lens_cache.plan.build import build_plan
from lens_cache.plan.plan import Plan
from tests.support.lisa_sets import GROUPS, only_fake_kinds, write_set, write_world


@pytest.fixture
def kinds(monkeypatch):
    only_fake_kinds(monkeypatch)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return write_world(tmp_path_factory.mktemp("world"))


def config(root, draws=None, templates="lisa", seed=0, limit=None, **lisa):
    lisa = LisaConfig(**{"sets": tuple(GROUPS), **lisa}, draws=draws)
    return DataConfig(
        kind="lisa", root=root, lisa=lisa, templates=templates, seed=seed, limit=limit
    )


ANSWERS = {
    "lisa": ["It is", "Sure,", "Sure, it is", "Sure, the segmentation result is", ""],
    "lens": [""],
}


def lisa_says(root, seed, number, names=tuple(GROUPS), rates=(9, 3, 1), count=3, code="lisa"):
    """Yield (picture, questions) as LISA's code draws them, with the global generators.

    LENS has the same code with other texts and one answer.
    """
    lists = {name: json.loads((root / name / "train.json").read_text()) for name in names}
    groups = ["semantic", "referring", "reasoning"]
    rates = np.array([rates[groups.index(g)] for g in groups if g in map(GROUPS.get, names)])
    groups = [group for group in groups if group in map(GROUPS.get, names)]
    shares = rates / rates.sum()
    short = [question.replace("{}", "{x}") for question in PUBLISHED[code].short]
    long = [question.replace("{}", "{x}") for question in PUBLISHED[code].long]

    def sample(group):
        mine = [name for name in names if GROUPS[name] == group]
        name = mine[0] if group == "reasoning" else mine[random.randint(0, len(mine) - 1)]
        images = lists[name]
        path, labels, length = images[random.randint(0, len(images) - 1)]
        if len(labels) == 0:
            return sample(group)
        if len(labels) >= count:
            places = np.random.choice(len(labels), size=count, replace=False)  # noqa: NPY002
        else:
            places = list(range(len(labels)))
        texts = []
        for place in places:
            words = labels[place]
            if len(words) == 2:
                texts.append(words[0] if random.random() < 0.5 else words[1])
            else:
                texts.append(words[0])
        questions = []
        for text in texts:
            if length == "long":
                questions.append(random.choice(long).format(x=text))
            else:
                questions.append(random.choice(short).format(x=text.lower()))
            random.choice(ANSWERS[code])
        return path, questions

    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002 - LISA's generator
    for _ in range(number):
        yield sample(groups[np.random.choice(list(range(len(groups))), p=shares)])  # noqa: NPY002


def replayed(plan):
    """Yield (picture, questions) of every draw of a plan."""
    for index in range(plan.draws.num_rows):
        asked = [plan.query(position) for position in plan.drawn(index)]
        yield str(plan.image(asked[0].image_index).path), [query.question for query in asked]


@pytest.mark.usefixtures("kinds")
class TestStream:
    @pytest.mark.parametrize("seed", [0, 1, 2**31 - 1])
    def test_it_is_the_one_of_lisa(self, world, seed):
        plan = build_plan(config(world, 2000, seed=seed))
        assert list(replayed(plan)) == list(lisa_says(world, seed, 2000))

    def test_some_sets_other_rates_other_counts(self, world):
        names = ("refcocog", "paco_lvis", "refcoco")
        lisa = {"rates": RatesConfig(semantic=1, referring=2), "queries_per_draw": 5}
        plan = build_plan(config(world, 500, sets=names, **lisa))
        expected = lisa_says(world, 0, 500, names, (1, 2, 1), 5)
        assert list(replayed(plan)) == list(expected)

    def test_few_draws_are_counted_as_they_come(self, world, monkeypatch):
        many = build_plan(config(world, 40))
        monkeypatch.setattr("lens_cache.plan.lisa_draws._FEW", 100)
        calls = []
        few = build_plan(config(world, 40), progress=lambda *call: calls.append(call[0]))
        assert few.digest() == many.digest()
        assert "count" not in calls

    def test_it_is_the_one_of_lens_with_its_templates(self, world):
        plan = build_plan(config(world, 500, templates="lens"))
        assert list(replayed(plan)) == list(lisa_says(world, 0, 500, code="lens"))

    def test_fixed_templates_draw_lisas_images(self, world):
        plans = [build_plan(config(world, 300, templates=t)) for t in ("lisa", "fixed")]
        lisa, fixed = ([picture for picture, _ in replayed(plan)] for plan in plans)
        assert lisa == fixed

    def test_only_what_was_drawn_is_planned_once(self, world):
        plan = build_plan(config(world, 20))
        drawn = [position for index in range(20) for position in plan.drawn(index)]
        assert sorted(set(drawn)) == list(range(plan.num_queries))
        assert plan.num_images == len({picture for picture, _ in replayed(plan)}) < 20
        whole = build_plan(config(world))
        assert whole.draws is None
        assert whole.num_queries > 4 * plan.num_queries


@pytest.mark.usefixtures("kinds")
def test_the_plan_does_not_depend_on_threads(world):
    plans = [build_plan(config(world, 200), mapper=in_threads(n)) for n in (1, 3)]
    assert plans[0].to_files() == plans[1].to_files()


@pytest.mark.usefixtures("kinds")
def test_draws_are_part_of_the_plan(world, tmp_path):
    plan = build_plan(config(world, 50))
    plan.save(tmp_path)
    loaded = Plan.load(tmp_path)
    assert loaded.digest() == plan.digest()
    assert list(replayed(loaded)) == list(replayed(plan))
    rows = plan.draws.to_pylist()
    rows[3]["queries"] = rows[3]["queries"][::-1] + rows[4]["queries"]
    other = dataclasses.replace(plan, draws=pa.Table.from_pylist(rows, schema=plan.draws.schema))
    assert other.digest() != plan.digest()
    assert dataclasses.replace(plan, draws=None).digest() != plan.digest()
    with pytest.raises(IndexError, match="draw 50 of a plan with 50 draws"):
        plan.drawn(50)
    with pytest.raises(IndexError, match="draw 0 of a plan with 0 draws"):
        build_plan(config(world)).drawn(0)
    rows[3]["queries"][0] = "unknown"
    broken = dataclasses.replace(plan, draws=pa.Table.from_pylist(rows, schema=plan.draws.schema))
    with pytest.raises(StoreError, match="its tables do not belong together"):
        Plan.from_files(broken.to_files())


@pytest.mark.usefixtures("kinds")
def test_splits_to_evaluate_on_are_planned_whole_beside_the_draws(world, tmp_path):
    root = write_world(tmp_path)
    val = [("v/0.png", 500, [["what is it?"], ["and this?"]], "long")]
    write_set(root, "reason_seg", val, "val")
    sets = ("reason_seg|val", *GROUPS)
    plan = build_plan(config(root, 30, sets=sets))
    assert plan.splits()["reason_seg|val"] == 2
    assert list(replayed(plan)) == list(lisa_says(root, 0, 30))


@pytest.mark.usefixtures("kinds")
def test_a_drawn_image_without_a_file_leaves_an_empty_draw(tmp_path):
    records = [("a.png", 1, [["One"]], "short"), ("b.png", None, [["Two"]], "short")]
    write_set(tmp_path, "refcoco", records)
    plan = build_plan(config(tmp_path, 20, sets=("refcoco",)))
    wanted = [picture for picture, _ in lisa_says(tmp_path, 0, 20, ("refcoco",))]
    assert {"a.png", "b.png"} == set(wanted)
    assert [bool(plan.drawn(i)) for i in range(20)] == [picture == "a.png" for picture in wanted]
    assert [row["path"] for row in plan.quarantine.to_pylist()] == ["b.png"]


@pytest.mark.usefixtures("kinds")
def test_images_without_a_label_are_replaced_and_listed(world):
    plan = build_plan(config(world, 300, sets=("ade20k",)))
    reasons = collections.Counter(
        (row["path"], row["reason"]) for row in plan.quarantine.to_pylist()
    )
    assert reasons == {("ade20k/0.png", "has no label"): 1, ("ade20k/7.png", "has no label"): 1}


@pytest.mark.usefixtures("kinds")
def test_nothing_to_draw_from(tmp_path, world):
    write_set(tmp_path, "ade20k", [("a.png", 1, [], "short")])
    with pytest.raises(DatasetError, match="1000 images of the semantic sets in a row"):
        build_plan(config(tmp_path, 1, sets=("ade20k",)))
    write_set(tmp_path, "refcoco", [("a.png", 1, [["a"]], "short")], "val")
    with pytest.raises(ConfigError, match=r"training splits, but data.lisa.sets has none"):
        build_plan(config(tmp_path, 1, sets=("refcoco|val",)))
    with pytest.raises(ConfigError, match=r"only semantic ones, and their data.lisa.rates are 0"):
        build_plan(config(world, 1, sets=("ade20k",), rates=RatesConfig(semantic=0)))


def test_a_cap_and_draws_do_not_go_together(tmp_path):
    both = dataclasses.replace(config(tmp_path, 5), queries_per_image=2)
    with pytest.raises(ConfigError, match="set one of the two"):
        build_plan(both)
