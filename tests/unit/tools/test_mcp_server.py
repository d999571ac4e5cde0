"""The MCP server, called by the SDK's client in memory."""

import base64

import anyio
import numpy as np
import pytest

pytest.importorskip("mcp", reason="pip install 'lens-cache[mcp]'")

from mcp.client import Client

from lens_cache.errors import ConfigError
from lens_cache.images.decode import read_image
from lens_cache.images.masks import decode
from lens_cache.tools.mcp_server import mcp_server, serve_mcp
from tests.support.pictures import encoded
from tests.support.predictors import SCORE, BoxPredictor, box_of
from tests.unit.tools.conftest import HEIGHT, PICTURE, WIDTH

BASE64 = base64.b64encode(encoded(PICTURE)).decode()
RING = "the red ring"


def call(predictor, root, name, **arguments):
    """Call a tool as a client does."""

    async def talk():
        async with Client(mcp_server(predictor, root)) as client:
            return await client.call_tool(name, arguments)

    return anyio.run(talk)


def tools(predictor):
    async def talk():
        async with Client(mcp_server(predictor, None)) as client:
            return (await client.list_tools()).tools

    return {tool.name: tool for tool in anyio.run(talk)}


def refusal(predictor, root, name="segment", **arguments):
    found = call(predictor, root, name, **arguments)
    assert found.is_error
    [block] = found.content
    assert "\n" not in block.text
    return block.text


@pytest.mark.parametrize("image", [{"image_path": "a.png"}, {"image_base64": BASE64}])
def test_segment_returns_words_a_picture_and_the_mask(predictor, root, image):
    found = call(predictor, root, "segment", instruction=RING, **image)
    mask = box_of(RING, HEIGHT, WIDTH)
    text, picture = found.content
    box = f"box x=1 y=2 width={len(RING)} height={HEIGHT - 3}"
    percent = f"{100 * mask.sum() / mask.size:.1f} % of {WIDTH} x {HEIGHT} pixels"
    assert text.text == f'"{RING}": score 0.75; {box}; {percent}'
    overlay = np.asarray(predictor(PICTURE, RING).overlay())
    assert picture.mime_type == "image/png"
    assert np.array_equal(read_image(base64.b64decode(picture.data)), overlay)
    content = found.structured_content
    assert np.array_equal(decode(content.pop("segmentation")), mask)
    assert content == {
        "instruction": RING,
        "score": SCORE,
        "calibrated": True,
        "box": [1, 2, len(RING), HEIGHT - 3],
        "area": int(mask.sum()),
        "share": pytest.approx(mask.mean()),
    }


def test_an_empty_mask_is_said(predictor, root):
    found = call(predictor, root, "segment", instruction="nothing", image_path="a.png")
    assert found.content[0].text == '"nothing": the mask is empty; score 0.75'
    assert found.structured_content["box"] is None


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"image_path": "../secret.png"}, "outside of the allowed folder"),
        ({"image_path": "http://127.0.0.1/a.png"}, "not fetched from a URL"),
        ({"image_path": "text.png"}, "not an image"),
        ({"image_base64": "hello!"}, "expected base64"),
        ({"image_path": "a.png", "instruction": "  "}, "the instruction is empty"),
        ({}, "image_path or image_base64, one of them"),
        ({"image_path": "a.png", "image_base64": BASE64}, "one of them"),
    ],
)
def test_wrong_input_is_refused_in_one_line(predictor, root, arguments, reason):
    assert reason in refusal(predictor, root, **{"instruction": RING, **arguments})


def test_without_a_folder_only_base64_is_read(predictor):
    assert "no folder" in refusal(predictor, None, instruction=RING, image_path="/etc/passwd")
    assert not call(predictor, None, "segment", instruction=RING, image_base64=BASE64).is_error


def test_ask_is_there_if_the_predictor_can_answer(root):
    assert set(tools(BoxPredictor())) == {"segment"}
    assert set(tools(BoxPredictor(answers=["x"]))) == {"segment", "ask"}
    talker = BoxPredictor(answers=["dialogue", "Three."])
    found = call(talker, root, "ask", text="How many?", image_path="a.png")
    assert [block.text for block in found.content] == ["Three."]
    assert found.structured_content == {"text": "Three.", "route": "dialogue", "mask": None}


def test_ask_marks_what_it_is_asked_to(root):
    found = call(
        BoxPredictor(answers=["segmentation"]), root, "ask", text=RING, image_base64=BASE64
    )
    assert [block.type for block in found.content] == ["text", "text", "image"]
    mask = found.structured_content["mask"]["segmentation"]
    assert np.array_equal(decode(mask), box_of(RING, HEIGHT, WIDTH))


def test_a_client_can_read_what_a_tool_takes_and_returns(predictor):
    tool = tools(predictor)["segment"]
    assert tool.input_schema["required"] == ["instruction"]
    assert {"score", "box", "segmentation"} <= set(tool.output_schema["properties"])
    assert tool.annotations.read_only_hint


def test_other_machines_are_served_only_if_it_is_asked_for(predictor, root):
    with pytest.raises(ConfigError, match=r"serving MCP on 0\.0\.0\.0: .* --allow-remote"):
        serve_mcp(predictor, root, transport="http", host="0.0.0.0")
    with pytest.raises(ConfigError, match="no such folder"):
        serve_mcp(predictor, root / "missing")
