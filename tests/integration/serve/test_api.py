"""The HTTP API: answers, refusals, and what many clients at once get."""

import base64
import io
import json
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image

from lens_cache.errors import ServiceError
from lens_cache.images.masks import decode, from_counts
from pipelines.serve.api import create_app
from pipelines.serve.limits import Limits
from tests.integration.serve.conftest import RED_RING, RING, STAR


def post(client, instruction=(RED_RING,), image=RING, **fields):
    data = {"instruction": list(instruction), **fields}
    return client.post("/segment", files={"image": ("a.png", image)}, data=data)


def mask(entry):
    rle = from_counts(entry["rle"]["counts"], *entry["rle"]["size"])
    return decode(rle)


def test_masks_are_those_of_the_predictor(client, predictor):
    answer = post(client, [RED_RING, STAR])
    assert answer.status_code == 200
    document = answer.json()
    assert (document["width"], document["height"]) == (128, 128)
    for entry, text in zip(document["masks"], [RED_RING, STAR], strict=True):
        found = predictor(RING, text)
        np.testing.assert_array_equal(mask(entry), found.mask)
        assert entry["instruction"] == text
        assert entry["score"] == pytest.approx(found.score, abs=1e-3)
        assert tuple(entry["box"]) == found.box
        assert entry["area"] == found.mask.sum()
        assert entry["keypoint_labels"] == found.keypoint_labels.tolist()


def test_a_mask_as_a_png(client, predictor):
    (entry,) = post(client, mask="png").json()["masks"]
    assert entry["rle"] is None
    found = np.asarray(Image.open(io.BytesIO(base64.b64decode(entry["png"]))))
    np.testing.assert_array_equal(found, predictor(RING, RED_RING).mask)


def test_clicks_correct_a_mask(client, predictor):
    predictor(RING, RED_RING)
    expected = predictor.correct(points=[(100, 95)], labels=[1])
    fields = {"points": "[[100, 95]]", "labels": "[1]"}
    (entry,) = post(client, **fields).json()["masks"]
    np.testing.assert_array_equal(mask(entry), expected.mask)
    assert post(client, [RED_RING, STAR], **fields).status_code == 400


@pytest.mark.parametrize(
    ("change", "status", "reason"),
    [
        ({"image": b"no image"}, 400, "not an image"),
        ({"image": b""}, 400, "file is empty"),
        ({"image": RING[: len(RING) // 2]}, 400, "cannot be decoded"),
        ({"instruction": [" "]}, 400, "instruction is empty"),
        ({"instruction": ["x" * 10_000]}, 400, "at most 4096 characters, found 10000"),
        ({"instruction": ["a"] * 33}, 400, "at most 32 instructions"),
        ({"instruction": ["an <image> here"]}, 400, "reserved for the image"),
        ({"instruction": []}, 422, "Field required"),
        ({"points": "[[1, 2]]"}, 400, "labels: expected JSON"),
        ({"points": "[[1, 2]]", "labels": "[2]"}, 400, "1 inside or 0 outside"),
        ({"points": "[[1, 999]]", "labels": "[1]"}, 400, "in an image of 128 x 128"),
        ({"points": "nonsense", "labels": "[1]"}, 400, "points: expected JSON"),
        ({"mask": "jpg"}, 422, "Input should be 'rle' or 'png'"),
    ],
)
def test_a_bad_request_is_refused_with_the_reason(client, change, status, reason):
    answer = post(client, **change)
    assert answer.status_code == status
    assert reason in json.dumps(answer.json()["detail"])
    assert post(client).status_code == 200


def test_a_large_request_and_a_large_image_are_refused(predictor):
    limits = Limits(max_bytes=40_000, max_pixels=128 * 128)
    client = TestClient(create_app(predictor, limits=limits))
    assert post(client).status_code == 200
    assert post(client, image=b"x" * 50_000).status_code == 413
    stream = io.BytesIO()
    Image.new("RGB", (129, 128)).save(stream, "PNG")
    answer = post(client, image=stream.getvalue())
    assert answer.status_code == 413
    assert "at most 16384 pixels, found 129 x 128" in answer.json()["detail"]


def test_a_token_is_needed_where_there_is_one(predictor):
    client = TestClient(create_app(predictor, token="secret"))
    assert client.get("/healthz").status_code == 200
    for path in ("/metrics", "/docs", "/openapi.json"):
        assert client.get(path).status_code == 401
    for header in ({}, {"Authorization": "secret"}, {"Authorization": "Bearer secreT"}):
        client.headers = header
        assert post(client).status_code == 401
    client.headers = {"Authorization": "Bearer secret"}
    assert post(client).status_code == 200
    assert client.get("/metrics").status_code == 200


def test_other_names_of_this_machine_are_refused(predictor):
    client = TestClient(create_app(predictor, hosts=["testserver"]))
    assert client.get("/healthz").status_code == 200
    assert client.get("/healthz", headers={"Host": "evil.example"}).status_code == 400


def test_health_metrics_and_schema(client, predictor):
    post(client)
    client.get("/some/secret/path")
    health = client.get("/healthz").json()
    assert health["status"] == "ok"
    assert health["head"] == "shapes"
    text = client.get("/metrics").text
    assert 'lens_cache_requests_total{path="/segment",status="200"} 1.0' in text
    assert 'lens_cache_requests_total{path="other",status="404"} 1.0' in text
    assert "lens_cache_queue 0.0" in text
    assert "secret" not in text
    paths = client.get("/openapi.json").json()["paths"]
    assert {"/segment", "/agent", "/healthz", "/metrics"} <= set(paths)
    assert {"400", "401", "413", "429"} <= set(paths["/segment"]["post"]["responses"])


def test_a_conversation(client, predictor):
    def ask(text, **fields):
        return client.post("/agent", data={"text": text, **fields}).json()

    files = {"image": ("a.png", RING)}
    first = client.post("/agent", data={"text": RED_RING}, files=files).json()
    assert (first["route"], first["understood"]) == ("segmentation", True)
    assert first["text"] == "Sure, the segmentation result is generated."
    np.testing.assert_array_equal(mask(first["mask"]), predictor(RING, RED_RING).mask)
    assert Image.open(io.BytesIO(base64.b64decode(first["overlay"]))).size == (128, 128)
    second = ask("What colour is it?", session=first["session"])
    assert (second["route"], second["mask"]) == ("follow-up", None)
    assert second["text"] == "red"
    third = ask("How many rings are there?", session=first["session"])
    assert third["route"] == "dialogue"
    assert third["text"] == predictor.answer(RING, "How many rings are there?")
    # Without a picture, and with a session that does not exist.
    assert client.post("/agent", data={"text": RED_RING}).status_code == 400
    assert client.post("/agent", data={"text": "a", "session": "guess"}).status_code == 404
    assert client.post("/agent", data={"text": " "}, files=files).status_code == 400


def test_a_talker_that_does_not_answer_is_a_bad_gateway(predictor):
    class Silent:
        def answer(self, image, text, *, max_new_tokens=256):
            raise ServiceError("asking http://127.0.0.1:1: refused")

    client = TestClient(create_app(predictor, talker=Silent()))
    answer = client.post("/agent", data={"text": "a"}, files={"image": ("a.png", RING)})
    assert answer.status_code == 502
    assert "refused" in answer.json()["detail"]


def test_many_clients_at_once_get_what_one_alone_gets(client, predictor):
    texts = [RED_RING, STAR, "all purple things", "the large triangle"]
    expected = {text: predictor(RING, text).mask for text in texts}

    def one(number):
        answer = post(client, [texts[number % 4]])
        if answer.status_code == 429:
            return None
        assert answer.status_code == 200, answer.text
        return mask(answer.json()["masks"][0])

    with ThreadPoolExecutor(32) as pool:
        found = list(pool.map(one, range(200)))
    answered = [index for index, value in enumerate(found) if value is not None]
    assert len(answered) > 50
    for index in answered:
        np.testing.assert_array_equal(found[index], expected[texts[index % 4]])
    text = client.get("/metrics").text
    batches = float(text.partition("lens_cache_batch_requests_count ")[2].split()[0])
    assert batches < len(answered)
