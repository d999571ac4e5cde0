"""Label Studio's protocol, as its server speaks it."""

import base64
import json

import numpy as np
import pytest

pytest.importorskip("fastapi", reason="pip install 'lens-cache[serve]'")

from fastapi import FastAPI
from fastapi.testclient import TestClient

from pipelines.serve.label_studio import label_studio_router
from tests.support.pictures import colours, encoded
from tests.support.predictors import SCORE, BoxPredictor, box_of
from tests.unit.serve.test_brush_rle import decoded

WIDTH, HEIGHT = 20, 10
PICTURE = colours(WIDTH, HEIGHT)
DATA_URL = f"data:image/png;base64,{base64.b64encode(encoded(PICTURE)).decode()}"
CONFIG = """<View>
  <!-- what an annotator sees -->
  <Image name="image" value="$picture"/>
  <BrushLabels name="brush" toName="image">
    <Label value="ring"/><Label value="big star"/>
  </BrushLabels>
  <KeyPointLabels name="clicks" toName="image" smart="true">
    <Label value="ring"/><Label value="big star"/>
  </KeyPointLabels>
  <TextArea name="prompt" toName="image" value="$wanted"/>
</View>"""


@pytest.fixture
def predictor():
    return BoxPredictor()


@pytest.fixture
def root(tmp_path):
    """A folder with pictures, beside one that is secret."""
    folder = tmp_path / "pictures"
    (folder / "upload/1").mkdir(parents=True)
    (folder / "upload/1/a b.png").write_bytes(encoded(PICTURE))
    (tmp_path / "secret.png").write_bytes(encoded(PICTURE))
    return folder


@pytest.fixture
def client(predictor, root):
    app = FastAPI()
    app.include_router(label_studio_router(predictor, root))
    with TestClient(app) as client:
        yield client


def request(*, picture=DATA_URL, context=None, config=CONFIG, **data):
    """Return the body of a request with one task, as Label Studio sends it."""
    return {
        "tasks": [{"id": 7, "data": {"picture": picture, **data}}],
        "model_version": None,
        "project": "1.1700000000",
        "label_config": config,
        "params": {"login": None, "password": None, "context": context},
    }


def text(words):
    return {"type": "textarea", "from_name": "prompt", "value": {"text": [words]}}


def click(x, y, label="ring", **extra):
    value = {"x": x, "y": y, "width": 0.5, "keypointlabels": [label]}
    return {"type": "keypointlabels", "from_name": "clicks", "value": value, **extra}


def answer(client, body):
    found = client.post("/predict", json=body)
    assert found.status_code == 200, found.text
    return found.json()["results"]


def refusal(client, body, status=400):
    found = client.post("/predict", json=body)
    assert found.status_code == status
    assert "\n" not in found.json()["detail"]
    return found.json()["detail"]


def mask_of(region):
    """Return the mask of a region, by the slow decoder."""
    shape = region["original_height"], region["original_width"], 4
    values = np.array(decoded(region["value"]["rle"])).reshape(shape)
    assert (values == values[..., :1]).all()
    return values[..., 3] == 255


def test_health_and_setup(client):
    assert client.get("/health").json()["status"] == "UP"
    body = {"project": "1.2", "schema": CONFIG, "hostname": "http://x", "access_token": "secret"}
    assert client.post("/setup", json=body).json() == {"model_version": "boxes"}
    body["schema"] = "<View><Text name='a' value='$a'/></View>"
    assert client.post("/setup", json=body).status_code == 400


def test_a_text_becomes_a_brush_region(client, predictor):
    [found] = answer(client, request(context={"result": [text("the big star")]}))
    assert predictor.asked == ["the big star"]
    [region] = found["result"]
    assert np.array_equal(mask_of(region), box_of("the big star", HEIGHT, WIDTH))
    assert region["value"]["brushlabels"] == ["big star"]
    assert region["value"]["format"] == "rle"
    named = region["from_name"], region["to_name"], region["type"], region["image_rotation"]
    assert named == ("brush", "image", "brushlabels", 0)
    assert (found["score"], region["score"], found["model_version"]) == (SCORE, SCORE, "boxes")


def test_clicks_correct_the_mask_of_the_text(client):
    regions = [
        text("the ring"),
        click(0, 0, is_positive=True),
        click(12.5, 35, label="big star", is_positive=False),
        click(100, 100, label="big star"),
    ]
    [found] = answer(client, request(context={"result": regions}))
    wanted = box_of("the ring", HEIGHT, WIDTH)
    wanted[0, 0], wanted[3, 2], wanted[HEIGHT - 1, WIDTH - 1] = True, False, True
    [region] = found["result"]
    assert np.array_equal(mask_of(region), wanted)
    assert region["value"]["brushlabels"] == ["big star"]


def test_a_click_without_text_takes_the_field_of_the_task_or_its_label(client, predictor):
    context = {"result": [click(50, 50, is_positive=True)]}
    answer(client, request(context=context, wanted="the red one"))
    answer(client, request(context=context))
    assert predictor.asked == ["the red one", "ring"]


def test_tasks_are_labelled_before_anyone_asks(client, predictor):
    body = request()
    body["tasks"][0]["data"]["wanted"] = " "  # Label Studio demands the field in every task
    body["tasks"].append({"data": {"picture": DATA_URL, "wanted": "all rings"}})
    body["params"] = None
    first, second = answer(client, body)
    assert predictor.asked == ["ring", "big star", "all rings"]
    assert [region["value"]["brushlabels"] for region in first["result"]] == [
        ["ring"],
        ["big star"],
    ]
    assert [region["value"]["brushlabels"] for region in second["result"]] == [["ring"]]
    assert len({region["id"] for region in first["result"] + second["result"]}) == 3


def test_an_empty_mask_is_no_region(client):
    [found] = answer(client, request(wanted="nothing"))
    assert found["result"] == []
    assert found["score"] == SCORE


@pytest.mark.parametrize(
    "picture",
    ["upload/1/a b.png", "/data/upload/1/a b.png", "/data/local-files/?d=upload/1/a%20b.png"],
)
def test_files_below_the_folder_are_read(client, picture):
    assert answer(client, request(picture=picture))[0]["result"]


@pytest.mark.parametrize(
    ("picture", "reason"),
    [
        ("http://169.254.169.254/latest", "not fetched from a URL"),
        ("https://example.org/a.png", "not fetched from a URL"),
        ("s3://bucket/a.png", "not fetched from a URL"),
        ("../secret.png", "outside of the allowed folder"),
        ("/data/local-files/?d=../secret.png", "outside of the allowed folder"),
        ("/data/../secret.png", "outside of the allowed folder"),
        ("/data/local-files/", "no such file"),
        ("data:text/plain;base64,aGVsbG8=", "expected a PNG or JPEG"),
        (None, "expected an image in the field picture"),
        (7, "expected an image in the field picture"),
    ],
)
def test_any_other_image_is_refused(client, picture, reason):
    assert reason in refusal(client, request(picture=picture))


@pytest.mark.parametrize(
    ("regions", "reason"),
    [
        ([text("  ")], "the instruction is empty"),
        ([text(7)], "expected a list of texts"),
        ([click(5, 5, label="cat")], 'one of ring, big star; found "cat"'),
        ([click(101, 5)], 'expected x in percent of the image, found "101"'),
        ([click("a", 5)], 'expected x in percent of the image, found "a"'),
        ([click(5, 5, image_rotation=90)], "the image is rotated"),
        ([{"type": "rectanglelabels", "value": {}}], 'found "rectanglelabels"'),
        (["x"], "expected a text area or keypoints"),
        ("x", "expected a list of regions"),
    ],
)
def test_any_other_region_is_refused(client, regions, reason):
    assert reason in refusal(client, request(context={"result": regions}))


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        (None, "expected XML in label_config"),
        ("<View>", "expected XML"),
        ('<!DOCTYPE v [<!ENTITY a "b">]><View>&a;</View>', "found a declaration"),
        ("<View><Image name='image' value='$a'/></View>", "expected <BrushLabels>"),
        (CONFIG.replace("$picture", "picture"), "expected a field of the task"),
    ],
)
def test_any_other_configuration_is_refused(client, config, reason):
    assert reason in refusal(client, request(config=config))


def test_other_requests_are_refused(client, predictor):
    assert "list of tasks" in refusal(client, {**request(), "tasks": None})
    assert "object with data" in refusal(client, {**request(), "tasks": [7]})
    assert "a text in the field wanted" in refusal(client, request(wanted=["ring"]))
    two = request(context={"result": [text("a")]})
    two["tasks"] *= 2
    assert "expected one task, found 2" in refusal(client, two)
    assert "found list" in refusal(client, [])
    plain = client.post(
        "/predict", content=json.dumps(request()), headers={"content-type": "text/plain"}
    )
    assert plain.status_code == 415
    broken = client.post(
        "/predict", content="{", headers={"content-type": "application/json; charset=utf-8"}
    )
    assert broken.status_code == 400
    app = FastAPI()
    app.include_router(label_studio_router(predictor, max_body=100))
    refusal(TestClient(app), request(), 413)
