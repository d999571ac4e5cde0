"""An MCP server over a predictor: the tools ``segment`` and ``ask``."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, Field

from lens_cache.agent.agent import LensAgent
from lens_cache.errors import ConfigError, LensCacheError, one_line
from lens_cache.images.png import png_base64
from lens_cache.predictor.predictor import LensPredictor
from lens_cache.predictor.segmentation import Segmentation
from lens_cache.tools.allowed_images import AllowedImages
from lens_cache.tools.extras import missing_extra
from lens_cache.tools.summary import share, summary
from lens_cache.version import __version__

try:
    from mcp.server.mcpserver import MCPServer
    from mcp.server.mcpserver.exceptions import ToolError
    from mcp.types import CallToolResult, ContentBlock, ImageContent, TextContent, ToolAnnotations
except ImportError as error:
    raise missing_extra("the MCP server", "mcp", error) from None

LOOPBACK = ("127.0.0.1", "::1", "localhost")
_INSTRUCTIONS = "Marks what an instruction means in an image: a mask, its box and its score."
_READS = ToolAnnotations(read_only_hint=True, idempotent_hint=True, open_world_hint=False)
_PATH = "Path of an image file, from the folder on that the server allows."
_BASE64 = "A PNG or JPEG file in base64, instead of a path."


class Rle(BaseModel):
    """A compressed COCO run-length encoding."""

    size: tuple[int, int] = Field(description="Height and width in pixels.")
    counts: str


class MaskContent(BaseModel):
    """The structured content of ``segment``."""

    instruction: str
    score: float = Field(description="Expected IoU of the mask, from 0 to 1, if calibrated.")
    calibrated: bool
    box: tuple[int, int, int, int] | None = Field(
        description="x, y, width, height in pixels; null if the mask is empty."
    )
    area: int = Field(description="Pixels of the mask.")
    share: float = Field(description="Share of the image, from 0 to 1.")
    segmentation: Rle = Field(description="The mask, COCO RLE.")


class AnswerContent(BaseModel):
    """The structured content of ``ask``."""

    text: str
    route: Literal["dialogue", "segmentation", "follow-up"]
    mask: MaskContent | None = Field(description="The mask, for the route segmentation.")


def mcp_server(predictor: LensPredictor, root: str | Path | None) -> MCPServer:
    """Return a server with the tool ``segment``, and ``ask`` if the predictor can answer.

    Each call of ``ask`` is a conversation of its own, so that clients learn nothing of each other.

    Args:
        predictor: Makes the masks.
        root: Images are read below this folder only; clients must send base64 if None.

    Raises:
        ConfigError: If ``root`` is no folder.
    """
    images = AllowedImages(root)
    server: MCPServer = MCPServer(
        "lens-cache", version=__version__, instructions=_INSTRUCTIONS, log_level="WARNING"
    )

    def segment(
        instruction: Annotated[str, Field(description='What to mark, e.g. "the orange".')],
        image_path: Annotated[str | None, Field(description=_PATH)] = None,
        image_base64: Annotated[str | None, Field(description=_BASE64)] = None,
    ) -> Annotated[CallToolResult, MaskContent]:
        with _plain_errors():
            found = predictor(_pixels(images, image_path, image_base64), instruction)
        return CallToolResult(
            content=[_text(summary(found)), _picture(png_base64(found.overlay()))],
            structured_content=_mask_content(found).model_dump(mode="json"),
        )

    def ask(
        text: Annotated[str, Field(description="A question, or a request to mark something.")],
        image_path: Annotated[str | None, Field(description=_PATH)] = None,
        image_base64: Annotated[str | None, Field(description=_BASE64)] = None,
    ) -> Annotated[CallToolResult, AnswerContent]:
        with _plain_errors():
            reply = LensAgent(predictor)(text, _pixels(images, image_path, image_base64))
        content: list[ContentBlock] = [_text(reply.text)]
        mask = None
        if reply.segmentation is not None and reply.overlay is not None:
            mask = _mask_content(reply.segmentation)
            content += [_text(summary(reply.segmentation)), _picture(png_base64(reply.overlay))]
        answer = AnswerContent(text=reply.text, route=reply.route, mask=mask)
        return CallToolResult(content=content, structured_content=answer.model_dump(mode="json"))

    server.add_tool(
        segment,
        description="Mark in an image what an instruction means; returns score, box, the marked "
        "image, and the mask as COCO RLE.",
        annotations=_READS,
    )
    if predictor.can_answer:
        server.add_tool(
            ask,
            description="Ask a multimodal LLM about an image, in words, or let it mark something.",
            annotations=_READS,
        )
    return server


def serve_mcp(
    predictor: LensPredictor,
    root: str | Path | None,
    *,
    transport: Literal["stdio", "http"] = "stdio",
    host: str = "127.0.0.1",
    port: int = 8000,
    allow_remote: bool = False,
    tell: Callable[[str], None] | None = None,
) -> None:
    """Serve until the client ends the connection, or a signal arrives.

    Args:
        predictor: Makes the masks.
        root: Images are read below this folder only; clients must send base64 if None.
        transport: ``stdio`` for a client that starts this program; ``http`` for clients that
            connect to ``http://HOST:PORT/mcp``.
        host: For ``http``: address to listen on.
        port: For ``http``: port.
        allow_remote: Accept a host that other machines reach. There is no password: whoever
            reaches the port can use it.
        tell: Receives a line for the user; stderr if None, because stdout belongs to the client.

    Raises:
        ConfigError: If ``root`` is no folder, or other machines would reach the host and
            ``allow_remote`` is not set.
    """
    check_options(root, transport=transport, host=host, allow_remote=allow_remote)
    server = mcp_server(predictor, root)
    if transport == "stdio":
        server.run("stdio")
        return
    line = f"serving MCP on http://{f'[{host}]' if ':' in host else host}:{port}/mcp"
    (tell or _to_stderr)(line)
    # On loopback the SDK also refuses requests whose Host or Origin is another one.
    server.run("streamable-http", host=host, port=port)


def check_options(
    root: str | Path | None, *, transport: Literal["stdio", "http"], host: str, allow_remote: bool
) -> None:
    """Refuse wrong options of ``serve_mcp`` before a model is loaded.

    Raises:
        ConfigError: As ``serve_mcp`` does.
    """
    AllowedImages(root)
    if transport == "http" and host not in LOOPBACK and not allow_remote:
        raise ConfigError(
            f"serving MCP on {host}: other machines reach it, without a password; give 127.0.0.1, "
            "or --allow-remote"
        )


def _to_stderr(line: str) -> None:
    print(line, file=sys.stderr)


@contextmanager
def _plain_errors() -> Iterator[None]:
    """Send an expected error to the client in one line."""
    try:
        yield
    except LensCacheError as error:
        raise ToolError(one_line(error)) from None


def _pixels(images: AllowedImages, path: str | None, encoded: str | None) -> NDArray[np.uint8]:
    if (path is None) == (encoded is None):
        raise ConfigError("reading the image: expected image_path or image_base64, one of them")
    if path is not None:
        return images.file(path)
    assert encoded is not None
    return images.base64(encoded)


def _mask_content(found: Segmentation) -> MaskContent:
    coco = found.to_coco()
    return MaskContent(
        instruction=found.instruction,
        score=found.score,
        calibrated=found.calibrated,
        box=found.box,
        area=coco["area"],
        share=share(found),
        segmentation=Rle(**coco["segmentation"]),
    )


def _text(text: str) -> TextContent:
    return TextContent(type="text", text=text)


def _picture(data: str) -> ImageContent:
    return ImageContent(type="image", data=data, mime_type="image/png")
