"""The LangChain tool, alone and in an agent with a model whose replies are fixed."""

import base64

import numpy as np
import pytest

pytest.importorskip("langchain", reason="pip install 'lens-cache[langchain]'")

from langchain.agents import create_agent
from langchain_core.language_models.fake_chat_models import GenericFakeChatModel
from langchain_core.messages import AIMessage

from lens_cache.errors import ConfigError
from lens_cache.images.decode import read_image
from lens_cache.predictor import Segmentation
from lens_cache.tools.langchain import lens_tool
from tests.support.predictors import box_of
from tests.unit.tools.conftest import HEIGHT, PICTURE, WIDTH

RING = "the red ring"


class Scripted(GenericFakeChatModel):
    """A model whose replies are fixed, whatever tools it has."""

    def bind_tools(self, tools, **kwargs):
        return self


def tool_call(**arguments):
    return {"name": "segment", "args": arguments, "id": "1", "type": "tool_call"}


def test_an_agent_gets_words_and_the_program_the_mask(predictor, root):
    asked = AIMessage("", tool_calls=[tool_call(instruction=RING, image_path="a.png")])
    model = Scripted(messages=iter([asked, AIMessage("Done.")]))
    agent = create_agent(model, tools=[lens_tool(predictor, root)])
    found = agent.invoke({"messages": [{"role": "user", "content": "Mark the red ring."}]})
    message = found["messages"][2]
    assert (message.type, message.status) == ("tool", "success")
    assert message.content.startswith(f'"{RING}": score 0.75; box x=1 y=2 width={len(RING)} ')
    assert isinstance(message.artifact, Segmentation)
    assert np.array_equal(message.artifact.mask, box_of(RING, HEIGHT, WIDTH))
    assert found["messages"][3].content == "Done."


def test_the_marked_image_goes_to_models_that_see(predictor, root):
    tool = lens_tool(predictor, root, overlay=True)
    message = tool.invoke(tool_call(instruction=RING, image_path="a.png"))
    text, picture = message.content_blocks
    assert text["text"].startswith(f'"{RING}": score')
    overlay = np.asarray(predictor(PICTURE, RING).overlay())
    assert np.array_equal(read_image(base64.b64decode(picture["base64"])), overlay)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"image_path": "../secret.png"}, "outside of the allowed folder"),
        ({"image_path": "https://example.org/a.png"}, "not fetched from a URL"),
        ({"image_path": "text.png"}, "not an image"),
        ({"image_path": "a.png", "instruction": ""}, "the instruction is empty"),
    ],
)
def test_wrong_input_is_one_line_for_the_model(predictor, root, arguments, reason):
    message = lens_tool(predictor, root).invoke(tool_call(**{"instruction": RING, **arguments}))
    assert message.status == "error"
    assert reason in message.content
    assert "\n" not in message.content
    assert message.artifact is None


def test_a_missing_folder_is_refused(predictor, root):
    with pytest.raises(ConfigError, match="no such folder"):
        lens_tool(predictor, root / "missing")
