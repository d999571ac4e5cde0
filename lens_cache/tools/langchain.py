"""A predictor as a LangChain tool, e.g. for ``langchain.agents.create_agent``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import BaseModel, Field

from lens_cache.errors import LensCacheError, one_line
from lens_cache.images.png import png_base64
from lens_cache.predictor.predictor import LensPredictor
from lens_cache.predictor.segmentation import Segmentation
from lens_cache.tools.allowed_images import AllowedImages
from lens_cache.tools.extras import missing_extra
from lens_cache.tools.summary import summary

try:
    from langchain_core.tools import StructuredTool, ToolException
except ImportError as error:
    raise missing_extra("the LangChain tool", "langchain", error) from None


class SegmentArguments(BaseModel):
    """What a model gives."""

    instruction: str = Field(description='What to mark, e.g. "the orange".')
    image_path: str = Field(description="Path of an image file, from the allowed folder on.")


def lens_tool(
    predictor: LensPredictor, root: str | Path, *, name: str = "segment", overlay: bool = False
) -> StructuredTool:
    """Return a tool whose message has a summary as content and the ``Segmentation`` as artifact.

    An expected error, such as a path outside of ``root``, becomes a message of one line for the
    model, which may try again.

    Args:
        predictor: Makes the masks.
        root: Only images below this folder are read.
        name: Name of the tool.
        overlay: Whether the content also has the marked image, for models that see images.

    Raises:
        ConfigError: If ``root`` is no folder.
    """
    images = AllowedImages(root)

    def segment(instruction: str, image_path: str) -> tuple[str | list[Any], Segmentation]:
        try:
            found = predictor(images.file(image_path), instruction)
        except LensCacheError as error:
            raise ToolException(one_line(error)) from None
        text = summary(found)
        if not overlay:
            return text, found
        picture = {
            "type": "image",
            "base64": png_base64(found.overlay()),
            "mime_type": "image/png",
        }
        return [{"type": "text", "text": text}, picture], found

    return StructuredTool.from_function(
        segment,
        name=name,
        description="Mark in an image what an instruction means; returns score, box and share of "
        "the image.",
        args_schema=SegmentArguments,
        response_format="content_and_artifact",
        handle_tool_error=True,
    )
