"""The paper's tables: published rows apart from measured ones, real data apart from other data."""

import csv
import io
import json

import pytest

from lens_cache.errors import DatasetError
from lens_cache.evaluation.published import published
from lens_cache.evaluation.scores import Sample
from pipelines.evaluation.table_files import latex, to_csv
from pipelines.evaluation.tables import build_table


def sample(number, dataset, kind="reasoning", length="long", **changes):
    values = {
        "query_id": f"q{number}",
        "image_id": f"i{number}",
        "image": "a.png",
        "dataset": dataset,
        "instruction": "what rolls",
        "kind": kind,
        "length": length,
        "topic": "",
        "intersection": 50,
        "union": 100,
        "iou": 0.5,
        "target_area": 80,
        "predicted_area": 70,
        "boundary_iou": 0.5,
        "target_share": 0.1,
    }
    return vars(Sample(**{**values, **changes}))


def evaluation(folder, split, samples, method="runs/a_b"):
    folder.mkdir()
    (folder / "report.json").write_text(
        json.dumps({"method": method, "split": split, "data": "/data/some & thing"})
    )
    (folder / "samples.jsonl").write_text("".join(json.dumps(one) + "\n" for one in samples))
    (folder / "predictions.jsonl").write_text("")
    return folder


@pytest.fixture
def real(tmp_path):
    samples = [
        sample(0, "reason_seg", length="short", iou=0.2, intersection=20),
        sample(1, "reason_seg", iou=0.6, intersection=60),
        sample(2, "reason_seg", iou=0.7, intersection=70),
    ]
    return evaluation(tmp_path / "real", "reason_seg|test", samples)


@pytest.fixture
def shapes(tmp_path):
    samples = [sample(0, "jsonl", iou=0.9), sample(1, "jsonl", kind="referring", iou=0.1)]
    return evaluation(tmp_path / "shapes", "val", samples, "shapes")


def test_real_data_and_other_data_have_blocks_of_their_own(real, shapes):
    made = build_table("reasonseg", [real, shapes])
    (measured,), (analogue,) = made.measured, made.analogue
    values = {name: round(one.value, 3) for name, one in measured.values.items()}
    assert values == {
        "short gIoU": 0.2,
        "short cIoU": 0.2,
        "long gIoU": 0.65,
        "long cIoU": 0.65,
        "test gIoU": 0.5,
        "test cIoU": 0.5,
    }
    # Of the world of shapes only the reasoning instructions, and never in the columns of test.
    assert {name: round(one.value, 3) for name, one in analogue.values.items()} == {
        "val gIoU": 0.9,
        "val cIoU": 0.5,
    }
    assert [row.method for row in made.published] == [row.method for row in published("reasonseg")]


def test_the_splits_of_a_method_are_one_row(real, tmp_path):
    val = evaluation(tmp_path / "val", "reason_seg|val", [sample(7, "reason_seg", iou=0.4)])
    (row,) = build_table("reasonseg", [real, val]).measured
    assert {"val gIoU", "test gIoU"} < set(row.values)


def test_every_format_has_every_row(real, shapes, tmp_path, lens_cache):
    code, text, err = lens_cache("table", "reasonseg", real, shapes, "--out", tmp_path / "out")
    assert code == 0, err
    assert "## published, trained" in text
    assert "## measured on other data" in text
    document = json.loads((tmp_path / "out/reasonseg.json").read_text())
    count = len(document["published"]) + 2
    made = build_table("reasonseg", [real, shapes])
    rows = list(csv.reader(io.StringIO(to_csv(made))))
    assert sum(row[0] != "block" for row in rows) == count
    tex = latex(made)
    assert tex.count(r" \\") == count + tex.count(r"\toprule")
    assert r"some \& thing" in tex
    assert r"runs/a\_b" in tex
    assert "56.5" in tex


@pytest.mark.parametrize("name", ["reasonseg", "refcoco", "general", "ablations", "cost"])
def test_published_rows_have_a_source_and_only_known_columns(name, lens_cache, tmp_path):
    rows = published(name)
    assert rows
    assert len({(row.method, row.source) for row in rows}) == len(rows)
    assert all("arXiv" in row.source or "github.com" in row.source for row in rows)
    assert lens_cache("table", name, "--out", tmp_path)[0] == 0


def test_the_paper_s_rows_are_those_it_prints():
    lens = {row.method: row.values for row in published("reasonseg")}["LENS-7B"]
    assert (lens["test gIoU"], lens["test cIoU"]) == (56.5, 57.3)
    refcoco = {row.method: row.values for row in published("refcoco")}["LENS-7B"]
    assert sum(refcoco.values()) / 8 == pytest.approx(70.3, abs=0.06)  # the paper's mean
    lisa = {row.method: row.values for row in published("refcoco")}["LISA-7B"]
    assert sum(lisa.values()) / 8 == pytest.approx(69.8, abs=0.06)


def general(folder, category):
    for name, score in (("MME", 900.0), ("MMStar", 30.0)):
        (folder / name).mkdir(parents=True)
        rows = {
            method: {"score": score + more, "categories": {category: score}}
            for more, method in enumerate(("LENS agent", "bare MLLM"))
        }
        (folder / name / "report.json").write_text(json.dumps({"benchmark": name, "rows": rows}))
    return folder


def test_general_ability_on_shapes_is_never_in_the_columns_of_the_benchmarks(tmp_path):
    real, drawn = general(tmp_path / "real", "OCR"), general(tmp_path / "drawn", "exist")
    made = build_table("general", [real, drawn])
    agent, bare = made.measured
    assert agent.values == {"MME": 900.0, "MMStar": 30.0}
    assert bare.method == "bare MLLM"
    assert made.analogue[0].values == {"MME of shapes": 900.0, "MMStar of shapes": 30.0}


def changed(folder, **changes):
    path = folder / "report.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    return folder


def test_a_part_of_a_split_or_a_second_value_is_refused_and_seen_images_are_named(real, tmp_path):
    again = evaluation(tmp_path / "again", "reason_seg|test", [sample(9, "reason_seg")])
    with pytest.raises(DatasetError, match="two evaluations of runs/a_b"):
        build_table("reasonseg", [real, again])
    with pytest.raises(DatasetError, match="only the first 1 images"):
        build_table("reasonseg", [changed(again, limit=1)])
    (row,) = build_table("reasonseg", [changed(real, limit=None, trained_on=2)]).measured
    assert row.method == "runs/a_b (trained on 2 of the images)"


def test_ablations_have_mean_and_deviation_over_seeds(tmp_path):
    scores = {"test": {name: {"mean": 80.0, "deviation": 0.5} for name in ("giou", "ciou")}}
    rows = [{"name": "LENS", "scores": scores, "seeds": [0, 1, 2]}]
    (tmp_path / "ablations.json").write_text(json.dumps({"rows": rows}))
    (row,) = build_table("ablations", [tmp_path]).analogue
    assert row.values == {
        "test gIoU": 80.0,
        "test gIoU deviation": 0.5,
        "test cIoU": 80.0,
        "test cIoU deviation": 0.5,
        "seeds": 3,
    }


def test_folders_without_an_evaluation_are_refused(tmp_path, lens_cache):
    for name in ("reasonseg", "general", "routing", "cost", "ablations"):
        code, _, err = lens_cache("table", name, tmp_path, "--out", tmp_path / "out")
        assert code == 1
        assert err.startswith("lens-cache: ")
