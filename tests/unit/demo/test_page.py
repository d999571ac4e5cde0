import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image

from lens_cache.config.train import TrainConfig
from lens_cache.evaluation.baseline_scores import Baselines, Line
from lens_cache.evaluation.intervals import Interval
from lens_cache.evaluation.scores import Sample, Score, Scores
from lens_cache.extraction.estimate import Estimate
from pipelines.demo.page import Page, render
from pipelines.evaluation.gallery import Gallery, Shot
from pipelines.evaluation.report import Evaluation
from pipelines.reports.curves import chart

HOSTILE = '"><script>alert(1)</script><img src="https://example.org/x.png" onerror=\'x\'>'
VOID = {"meta", "img", "link", "br"}


class Reader(HTMLParser):
    """Collects tags, addresses and text; notes what is not closed in order."""

    def __init__(self):
        super().__init__()
        self.open, self.tags, self.addresses, self.sections, self.words = [], [], [], [], []
        self.in_order = True

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.addresses += [v for k, v in attributes if k in ("src", "href", "data", "action")]
        self.sections += [v for k, v in attributes if tag == "section" and k == "id"]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in VOID:
            self.in_order &= bool(self.open) and self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)


def score(value):
    interval = Interval(value, value - 0.01, value + 0.01)
    return Score(queries=7, giou=interval, ciou=interval)


def scores(value):
    return Scores(
        overall=score(value),
        by_kind={"class, short": score(value + 0.01)},
        by_topic={HOSTILE: score(value + 0.02)},
    )


def evaluation(split):
    found = scores(0.612)
    return Evaluation(
        method="run",
        checkpoint="best.ckpt",
        data="store",
        split=split,
        limit=None,
        images=3,
        quarantined=0,
        overall=found.overall,
        by_kind=found.by_kind,
        by_topic=found.by_topic,
        folder="folder",
    )


def shot(instruction, rank="best"):
    sample = Sample(
        query_id="q",
        image_id="i",
        image="a.png",
        dataset="jsonl",
        instruction=instruction,
        kind="class",
        length="short",
        topic="shape",
        intersection=1,
        union=2,
        iou=0.5,
        target_area=2,
        predicted_area=1,
        target_share=0.1,
    )
    names = ("image", "grounding map", "prediction", "ground truth")
    return Shot(rank=rank, sample=sample, pictures={n: Image.new("RGB", (8, 8)) for n in names})


def page(**changes):
    parts = {
        "version": "1.2.3",
        "seed": 5,
        "images": {"train": 20, "test": 3},
        "queries": {"train": 200, "test": 31},
        "layers": (4,),
        "cost": Estimate(
            feature_bytes={"hidden_states": 3_000_000, "image_embeddings": 1_000_000},
            naive_bytes=40_000_000,
            llava_flops=2e9,
            naive_llava_flops=8e9,
            sam_flops=1e9,
        ),
        "seconds": {"world": 1.0, "train": 61.26},
        "training": TrainConfig(),
        "charts": {"Loss": chart({f"train/{HOSTILE}": [(0, 2.0), (9, 1.0)]}, [f"train/{HOSTILE}"])},
        "evaluations": {split: evaluation(split) for split in ("test", "hard")},
        "baselines": Baselines(
            development="val",
            lines=[
                Line(
                    name="everything",
                    note=HOSTILE,
                    ceiling=False,
                    splits={split: scores(0.041) for split in ("test", "hard")},
                )
            ],
            notes=["no random thing"],
        ),
        "gallery": Gallery(
            split="test",
            kinds={"class": [shot(HOSTILE), shot("the ring", "median"), shot("b", "worst")]},
            swaps=[[shot("the star"), shot(HOSTILE)]],
            pairs=8,
            passed=6,
        ),
        "world": Path("out/world"),
        "store": Path("out/store"),
        "run": Path("out/run"),
    }
    return Page(**{**parts, **changes})


def read(html):
    reader = Reader()
    reader.feed(html)
    reader.close()
    return reader


def test_every_section_shows_its_numbers():
    reader = read(render(page()))
    # Masks first, then numbers.
    assert reader.sections == ["gallery", "scores", "swap", "training", "cache", "times", "next"]
    assert reader.in_order
    assert reader.open == []
    text = " ".join(" ".join(reader.words).split())
    for expected in (
        "61.2",
        "4.1",
        "75.0 %",
        "10.0 \u00d7",
        "40.0 MB",
        "61.3 s",
        "62 s",
        "6 of 8 pairs",
    ):
        assert expected in text
    for expected in (
        "best",
        "median",
        "worst",
        "everything",
        "no random thing",
        "lens-cache 1.2.3",
    ):
        assert expected in text
    assert reader.tags.count("img") == 3 * 4 + 5
    assert reader.tags.count("svg") == 1


def test_nothing_is_loaded_from_elsewhere():
    html = render(page())
    reader = read(html)
    assert reader.addresses
    links = [address for address in reader.addresses if not address.startswith("data:")]
    assert links == ["run/report.html"]
    assert all(
        address.startswith("data:image/jpeg;base64,")
        for address in reader.addresses
        if address not in links
    )
    assert not {"script", "link", "iframe", "object"} & set(reader.tags)
    assert not re.search(r"url\((?!#)|@import", html)


def test_hostile_texts_are_shown_and_not_run():
    html = render(page())
    assert "<script" not in html
    assert '<img src="https' not in html
    assert " ".join(read(html).words).count("<script>alert(1)</script>") >= 4


@pytest.mark.parametrize("pairs", [0, 3])
def test_a_split_without_pairs_has_a_page_too(pairs):
    gallery = Gallery(split="test", kinds={}, swaps=[], pairs=pairs, passed=0)
    assert f"0 of {pairs} pairs" in " ".join(render(page(gallery=gallery)).split())
