"""The tool of smolagents, alone and in agents with a model whose replies are fixed."""

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("smolagents", reason="pip install 'lens-cache[smolagents]'")

from smolagents import CodeAgent, Model, ToolCallingAgent
from smolagents.models import (
    ChatMessage,
    ChatMessageToolCall,
    ChatMessageToolCallFunction,
    MessageRole,
)

from lens_cache.errors import ConfigError, ImageError
from lens_cache.tools.smolagents import LensTool
from tests.support.predictors import box_of
from tests.unit.tools.conftest import HEIGHT, PICTURE, WIDTH

RING = "the red ring"


class Scripted(Model):
    """A model whose replies are fixed."""

    def __init__(self, *replies):
        super().__init__()
        self._replies = list(replies)

    def generate(self, messages, **kwargs):
        return self._replies.pop(0)


def code(text):
    return ChatMessage(role=MessageRole.ASSISTANT, content=f"<code>\n{text}\n</code>")


def call(name, **arguments):
    function = ChatMessageToolCallFunction(name=name, arguments=arguments)
    calls = [ChatMessageToolCall(id="1", type="function", function=function)]
    return ChatMessage(role=MessageRole.ASSISTANT, content="", tool_calls=calls)


def test_a_call_returns_the_marked_image_and_keeps_the_mask(predictor):
    tool = LensTool(predictor)
    assert tool.last is None
    found = tool(image=Image.fromarray(PICTURE), instruction=RING)
    assert np.array_equal(np.asarray(found), np.asarray(predictor(PICTURE, RING).overlay()))
    assert np.array_equal(tool.last.mask, box_of(RING, HEIGHT, WIDTH))


def test_a_code_agent_calls_it(predictor):
    tool = LensTool(predictor)
    model = Scripted(code(f'final_answer(segment(picture, "{RING}"))'))
    agent = CodeAgent(tools=[tool], model=model, max_steps=1, verbosity_level=0)
    found = agent.run("Mark it.", additional_args={"picture": Image.fromarray(PICTURE)})
    assert found.to_raw().size == (WIDTH, HEIGHT)
    assert tool.last.instruction == RING


def test_a_tool_calling_agent_calls_it(predictor):
    tool = LensTool(predictor)
    model = Scripted(
        call("segment", image="picture", instruction=RING), call("final_answer", answer="Done.")
    )
    agent = ToolCallingAgent(tools=[tool], model=model, max_steps=2, verbosity_level=0)
    found = agent.run("Mark it.", additional_args={"picture": Image.fromarray(PICTURE)})
    assert found == "Done."
    assert np.array_equal(tool.last.mask, box_of(RING, HEIGHT, WIDTH))


def test_files_are_read_only_below_the_folder(predictor, root):
    tool = LensTool(predictor, root)
    tool(image="a.png", instruction=RING)
    assert np.array_equal(tool.last.image, PICTURE)
    for name in ("../secret.png", str(root.parent / "secret.png"), root.parent / "secret.png"):
        with pytest.raises(ConfigError, match="outside of the allowed folder"):
            tool(image=name, instruction=RING)
    with pytest.raises(ConfigError, match="not fetched from a URL"):
        tool(image="https://example.org/a.png", instruction=RING)
    with pytest.raises(ConfigError, match="no folder of images was allowed"):
        LensTool(predictor)(image="a.png", instruction=RING)


def test_wrong_input_is_refused_and_the_last_mask_stays(predictor):
    tool = LensTool(predictor)
    tool(image=PICTURE, instruction=RING)
    with pytest.raises(ConfigError, match="the instruction is empty"):
        tool(image=PICTURE, instruction=" ")
    with pytest.raises(ImageError, match="expected a path, bytes, a PIL image or an array"):
        tool(image=7, instruction=RING)
    assert tool.last.instruction == RING
