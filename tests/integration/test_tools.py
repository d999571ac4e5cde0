"""Tools over a real predictor: MCP through both transports, and Label Studio's protocol."""

import contextlib
import json
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request

import anyio
import numpy as np
import pytest

import lens_cache as lc
from lens_cache.images.masks import decode
from pipelines.training.train import train
from tests.support import REPOSITORY

INSTRUCTION = "the dog"
RECIPE = (
    "preset=tiny",
    "batch.images=2",
    "batch.split=train2017",
    "trainer.accelerator=cpu",
    "trainer.max_steps=2",
    "batch.loader_workers=0",
)


@pytest.fixture(scope="module")
def trained(tmp_path_factory, tiny_store):
    config = lc.load_config(lc.TrainConfig, None, RECIPE)
    return train(tmp_path_factory.mktemp("runs") / "run", tiny_store, config, resume=False)


@pytest.fixture(scope="module")
def predictor(trained):
    return lc.LensPredictor(trained, device="cpu")


@pytest.fixture(scope="module")
def picture(tiny_coco):
    return sorted((tiny_coco / "train2017").iterdir())[0]


def command(trained, picture, *options):
    """Return the program and the arguments of ``lens-cache mcp``."""
    arguments = ["--run", trained.folder, "--root", picture.parent, "--device", "cpu", *options]
    return sys.executable, ["-m", "pipelines", "mcp", *map(str, arguments)]


def assert_segments(client, picture, predictor):
    async def talk():
        async with client:
            names = {tool.name for tool in (await client.list_tools()).tools}
            arguments = {"instruction": INSTRUCTION, "image_path": picture.name}
            return names, await client.call_tool("segment", arguments)

    names, found = anyio.run(talk)
    assert names == {"segment"}
    assert not found.is_error, found.content
    wanted = predictor(picture, INSTRUCTION)
    assert np.array_equal(decode(found.structured_content["segmentation"]), wanted.mask)
    assert found.structured_content["score"] == pytest.approx(wanted.score)


def test_a_client_starts_the_server_and_speaks_over_its_pipes(trained, picture, predictor):
    pytest.importorskip("mcp", reason="pip install 'lens-cache[mcp]'")
    from mcp.client import Client
    from mcp.client.stdio import StdioServerParameters

    program, arguments = command(trained, picture, "--no-talk")
    server = StdioServerParameters(
        command=program, args=arguments, cwd=REPOSITORY, env={"OMP_NUM_THREADS": "1"}
    )
    assert_segments(Client(server), picture, predictor)


@contextlib.contextmanager
def http_server(trained, picture):
    """Run the server; returns its URL when it listens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = "--no-talk", "--transport", "http", "--port", str(port)
    program, arguments = command(trained, picture, *options)
    process = subprocess.Popen([program, *arguments], cwd=REPOSITORY, stderr=subprocess.PIPE)
    try:
        for _ in range(600):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                break
            assert process.poll() is None, process.stderr.read().decode()
            time.sleep(0.1)
        yield f"http://127.0.0.1:{port}/mcp"
    finally:
        process.terminate()
        process.communicate(timeout=30)


def test_a_client_connects_over_http_and_a_stranger_s_page_does_not(trained, picture, predictor):
    pytest.importorskip("mcp", reason="pip install 'lens-cache[mcp]'")
    from mcp.client import Client

    with http_server(trained, picture) as url:
        assert_segments(Client(url), picture, predictor)
        for name, value in {"Host": "example.org", "Origin": "http://example.org"}.items():
            headers = {
                "Content-Type": "application/json",
                "Accept": "application/json, text/event-stream",
                name: value,
            }
            body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "tools/list"}).encode()
            with pytest.raises(urllib.error.HTTPError) as refused:
                urllib.request.urlopen(urllib.request.Request(url, body, headers), timeout=30)
            assert refused.value.code in (403, 421)
            refused.value.close()


def test_wrong_options_end_before_a_model_is_loaded(lens_cache, tmp_path):
    pytest.importorskip("mcp", reason="pip install 'lens-cache[mcp]'")
    for options, reason in (
        (("--transport", "http", "--host", "0.0.0.0"), "--allow-remote"),
        (("--root", tmp_path / "missing"), "no such folder"),
    ):
        code, out, err = lens_cache("mcp", "--run", tmp_path, *options)
        assert (code, out, err.count("\n")) == (2, "", 1)
        assert reason in err


def test_the_annotator_gets_the_masks_of_the_predictor(predictor, picture):
    pytest.importorskip("fastapi", reason="pip install 'lens-cache[serve]'")
    from fastapi import FastAPI
    from fastapi.testclient import TestClient

    from pipelines.serve.label_studio import label_studio_router
    from tests.unit.serve.test_label_studio import click, mask_of, request, text

    app = FastAPI()
    app.include_router(label_studio_router(predictor, picture.parent))
    asked = predictor(picture, INSTRUCTION)
    clicked = predictor.refine(asked, points=[(10, 15)], labels=[1])
    assert not np.array_equal(asked.logits, clicked.logits)
    height, width = asked.mask.shape
    point = click(100 * 10 / width, 100 * 15 / height, is_positive=True)
    with TestClient(app) as client:
        for regions, wanted in (([], asked), ([point], clicked)):
            context = {"result": [text(INSTRUCTION), *regions]}
            body = request(picture=picture.name, context=context)
            [found] = client.post("/predict", json=body).json()["results"]
            assert found["score"] == pytest.approx(wanted.score)
            got = [mask_of(region) for region in found["result"]]
            assert np.array_equal(got, [wanted.mask] if wanted.mask.any() else [])
