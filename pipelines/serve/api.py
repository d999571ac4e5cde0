"""The HTTP API: masks for an image, an agent, health and metrics. ``/docs`` describes it."""

from __future__ import annotations

import asyncio
import json
from concurrent.futures import Future
from typing import Annotated, Any, Literal, TypeVar, cast

import numpy as np
from fastapi import FastAPI, File, Form, HTTPException, Request, UploadFile
from fastapi.responses import JSONResponse, Response
from numpy.typing import NDArray
from PIL import Image
from pydantic import BaseModel, Field
from starlette.middleware.trustedhost import TrustedHostMiddleware

from lens_cache.agent.agent import LensAgent, Reply, Talker
from lens_cache.errors import ConfigError, ImageError, LensCacheError, ServiceError, one_line
from lens_cache.images.decode import image_size
from lens_cache.images.inputs import rgb_pixels
from lens_cache.images.png import png_base64
from lens_cache.predictor import LensPredictor, Segmentation
from lens_cache.predictor.checks import require_instruction
from lens_cache.version import __version__
from pipelines.serve.batcher import Batcher, QueueFullError
from pipelines.serve.guard import Guard
from pipelines.serve.limits import Limits
from pipelines.serve.metrics import CONTENT_TYPE, Metrics
from pipelines.serve.sessions import Sessions

T = TypeVar("T")
MaskFormat = Literal["rle", "png"]
PAGE = "/page"
Picture = Annotated[UploadFile, File(description="An image file, such as PNG or JPEG.")]
_REASONS: dict[int | str, dict[str, Any]] = {
    400: {"description": "The image or a parameter is not what was expected."},
    401: {"description": "The token is missing or wrong."},
    408: {"description": "The request was not complete in time."},
    413: {"description": "The request or the image is too large."},
    429: {"description": "Too many requests wait; try again later."},
    504: {"description": "There was no answer in time."},
}


class Mask(BaseModel):
    """The answer to one instruction."""

    instruction: str
    score: float = Field(description="Expected IoU of the mask, from 0 to 1, if calibrated.")
    calibrated: bool
    box: tuple[int, int, int, int] | None = Field(description="x, y, width, height in pixels.")
    area: int = Field(description="Pixels of the mask.")
    rle: dict[str, Any] | None = Field(description="COCO RLE: size (height, width), counts.")
    png: str | None = Field(description="A black and white PNG, base64.")
    keypoints: list[tuple[float, float]] = Field(description="(x, y) in pixels of the image.")
    keypoint_labels: list[int] = Field(description="1 inside the mask, 0 outside.")


class Masks(BaseModel):
    """The answers to all instructions about an image."""

    width: int
    height: int
    masks: list[Mask]


class AgentReply(BaseModel):
    """The agent's reply to one request."""

    session: str = Field(description="Send it with the next request of the conversation.")
    text: str
    route: Literal["dialogue", "segmentation", "follow-up"]
    understood: bool = Field(description="Whether the multimodal LLM named a route.")
    mask: Mask | None
    overlay: str | None = Field(description="The marked image as a PNG, base64.")


class Health(BaseModel):
    """That the server runs, and with which head."""

    status: Literal["ok"]
    version: str
    head: str
    device: str
    waiting: int


class Service:
    """What the endpoints and the page share: one predictor, one queue, all conversations."""

    def __init__(
        self, predictor: LensPredictor, talker: Talker | None, limits: Limits, metrics: Metrics
    ) -> None:
        self.predictor = predictor
        self.limits = limits
        self.metrics = metrics
        self.talks = talker is not None or predictor.can_answer
        self.batcher = Batcher(
            predictor,
            max_queue=limits.max_queue,
            max_batch=limits.max_batch,
            observe=metrics.batch,
        )
        metrics.watch_queue(lambda: self.batcher.waiting)
        self.sessions = Sessions(
            predictor,
            talker,
            capacity=limits.max_sessions,
            max_new_tokens=limits.max_new_tokens,
        )

    async def wait(self, future: Future[T]) -> T:
        """Wait for a queued answer, up to the limit.

        Raises:
            HTTPException: If there is none in time.
        """
        try:
            return await asyncio.wait_for(asyncio.wrap_future(future), self.limits.answer_seconds)
        except TimeoutError:
            raise HTTPException(
                504, f"no answer after {self.limits.answer_seconds:g} seconds; try again later"
            ) from None

    def decode(self, data: bytes) -> NDArray[np.uint8]:
        """Decode an image of a client.

        Raises:
            HTTPException: If it is too large.
            ImageError: If it is no image.
        """
        width, height = image_size(data)
        if width * height > self.limits.max_pixels:
            raise HTTPException(
                413,
                f"expected an image of at most {self.limits.max_pixels} pixels, found "
                f"{width} x {height}",
            )
        return rgb_pixels(data)

    async def read(self, picture: UploadFile) -> NDArray[np.uint8]:
        """Decode an uploaded image, in a thread."""
        data = await picture.read()
        return await asyncio.to_thread(self.decode, data)


def create_app(
    predictor: LensPredictor,
    *,
    talker: Talker | None = None,
    limits: Limits | None = None,
    token: str | None = None,
    hosts: list[str] | None = None,
) -> FastAPI:
    """Return the application; the page is mounted by ``page.add_page``.

    Args:
        predictor: Makes the masks.
        talker: Talks instead of the predictor's own multimodal LLM.
        limits: The limits; the defaults if None.
        token: Clients must send it; none if None.
        hosts: Names under which the server may be called; any if None.
    """
    bounds, metrics = limits or Limits(), Metrics()
    service = Service(predictor, talker, bounds, metrics)
    app = FastAPI(
        title="lens-cache",
        version=__version__,
        description="Masks for images and instructions, by LENS.",
        responses=_REASONS,
    )
    app.state.service = service
    app.add_middleware(Guard, limits=bounds, metrics=metrics, token=token, page=PAGE)
    if hosts is not None:
        app.add_middleware(TrustedHostMiddleware, allowed_hosts=hosts)
    _add_errors(app)
    _add_segment(app, service)
    if service.talks:
        _add_agent(app, service)

    @app.get("/healthz")
    async def healthz() -> Health:
        """Whether the server runs, and with which head."""
        return Health(
            status="ok",
            version=__version__,
            head=predictor.head.name,
            device=predictor.device,
            waiting=service.batcher.waiting,
        )

    @app.get("/metrics")
    async def metrics_text() -> Response:
        """Counts and times, in the format of Prometheus."""
        return Response(metrics.text(), media_type=CONTENT_TYPE)

    return app


def _add_errors(app: FastAPI) -> None:
    """Turn expected errors into a status and one line."""

    def handler(status: int) -> Any:
        async def handle(_: Request, error: Exception) -> JSONResponse:
            return JSONResponse({"detail": one_line(error)}, status)

        return handle

    async def queue_full(_: Request, __: Exception) -> JSONResponse:
        headers = {"Retry-After": "1"}
        return JSONResponse({"detail": "too many requests wait; try again"}, 429, headers)

    app.add_exception_handler(ImageError, handler(400))
    app.add_exception_handler(ConfigError, handler(400))
    app.add_exception_handler(ServiceError, handler(502))
    app.add_exception_handler(LensCacheError, handler(500))
    app.add_exception_handler(QueueFullError, queue_full)


def _add_segment(app: FastAPI, service: Service) -> None:
    @app.post("/segment")
    async def segment(
        image: Picture,
        instruction: Annotated[list[str], Form(description="One or several.")],
        points: Annotated[
            str | None, Form(description="Clicks, JSON [[x, y], ...] in pixels; one instruction.")
        ] = None,
        labels: Annotated[
            str | None, Form(description="JSON [1, 0, ...]: 1 inside the target, 0 outside.")
        ] = None,
        mask: Annotated[MaskFormat, Form(description="Format of the masks.")] = "rle",
    ) -> Masks:
        """Segment one image by one or several instructions."""
        limit = service.limits.max_instructions
        if len(instruction) > limit:
            raise ConfigError(f"expected at most {limit} instructions, found {len(instruction)}")
        for text in instruction:
            require_instruction(text)
        pixels = await service.read(image)
        if points is None and labels is None:
            found = await service.wait(service.batcher.segment(pixels, instruction))
        else:
            clicks = _json(points, "points"), _json(labels, "labels")
            if len(instruction) != 1:
                raise ConfigError("clicks need exactly one instruction")
            call = service.batcher.call(
                lambda: service.predictor.segment_with_clicks(
                    pixels, instruction[0], points=clicks[0], labels=clicks[1]
                )
            )
            found = [cast(Segmentation, await service.wait(call))]
        height, width = pixels.shape[:2]
        return Masks(width=width, height=height, masks=[mask_of(one, mask) for one in found])


def _add_agent(app: FastAPI, service: Service) -> None:
    @app.post("/agent")
    async def agent(
        text: Annotated[str, Form(description="The request.")],
        image: Annotated[
            UploadFile | None, File(description="Needed for the first request of a session.")
        ] = None,
        session: Annotated[
            str | None, Form(description="The conversation; a new one if not given.")
        ] = None,
        mask: Annotated[MaskFormat, Form(description="Format of the mask.")] = "rle",
    ) -> AgentReply:
        """Reply to a request in a conversation: in words, or with a mask (Algorithm S1)."""
        require_instruction(text)
        pixels = None if image is None else await service.read(image)
        if session is None:
            name, found = service.sessions.start()
        else:
            name, known = session, service.sessions.get(session)
            if known is None:
                raise HTTPException(404, "this session is not kept any more; start a new one")
            found = known
        reply = await ask(service, found, text, pixels)
        return AgentReply(
            session=name,
            text=reply.text,
            route=reply.route,
            understood=reply.understood,
            mask=None if reply.segmentation is None else mask_of(reply.segmentation, mask),
            overlay=None if reply.overlay is None else png_base64(reply.overlay),
        )


async def ask(
    service: Service, agent: LensAgent, text: str, pixels: NDArray[np.uint8] | None = None
) -> Reply:
    """Send a request to an agent through the queue; arguments as for ``LensAgent``."""
    reply = cast(Reply, await service.wait(service.batcher.call(lambda: agent(text, pixels))))
    service.metrics.routed(reply.route)
    return reply


def mask_of(found: Segmentation, form: MaskFormat) -> Mask:
    """Return an answer as the API sends it."""
    entry = found.to_coco()
    return Mask(
        instruction=found.instruction,
        score=found.score,
        calibrated=found.calibrated,
        box=found.box,
        area=entry["area"],
        rle=entry["segmentation"] if form == "rle" else None,
        png=png_base64(Image.fromarray(found.mask)) if form == "png" else None,
        keypoints=[(float(x), float(y)) for x, y in found.keypoints],
        keypoint_labels=found.keypoint_labels.tolist(),
    )


def _json(text: str | None, name: str) -> Any:
    try:
        return json.loads(text or "")
    except ValueError:
        raise ConfigError(f"{name}: expected JSON such as [[64, 30]] and [1]") from None
