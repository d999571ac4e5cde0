"""Label Studio's protocol for models: masks as brush labels, from texts and clicks."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit
from uuid import uuid4

import numpy as np
from fastapi import APIRouter, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse
from numpy.typing import NDArray

from lens_cache.errors import ConfigError, LensCacheError, one_line
from lens_cache.predictor import LensPredictor, Segmentation
from lens_cache.tools.allowed_images import AllowedImages
from pipelines.serve.brush_rle import encode
from pipelines.serve.labelling import Asked, Labelling

# Most bytes of a request; tasks may have images as data URLs.
MAX_BODY = 64 * 1024 * 1024
# Where Label Studio shows files of a local storage, and files that were uploaded.
_LOCAL_FILES = "/data/local-files/"
_UPLOADS = "/data/"


def label_studio_router(
    predictor: LensPredictor, root: str | Path | None = None, *, max_body: int = MAX_BODY
) -> APIRouter:
    """Return ``GET /health``, ``POST /setup`` and ``POST /predict`` of an ML backend.

    Args:
        predictor: Makes the masks.
        root: Tasks may name image files below this folder; only data URLs are read if None.
        max_body: Most bytes of a request.

    Raises:
        ConfigError: If ``root`` is no folder.
    """
    backend = _Backend(predictor, AllowedImages(root))
    router = APIRouter(tags=["Label Studio"])

    @router.get("/health")
    async def health() -> dict[str, str]:
        """Whether the server runs."""
        return {"status": "UP", "model_class": "LensPredictor"}

    @router.post("/setup")
    async def setup(request: Request) -> JSONResponse:
        """Check the labelling configuration of a project."""
        return await _answer(request, max_body, backend.setup)

    @router.post("/predict")
    async def predict(request: Request) -> JSONResponse:
        """Return masks for tasks, or for what an annotator wrote and clicked."""
        return await _answer(request, max_body, backend.predict)

    return router


class _Backend:
    """What the endpoints do."""

    def __init__(self, predictor: LensPredictor, images: AllowedImages) -> None:
        self._predictor = predictor
        self._images = images
        self._version = predictor.head.name

    def setup(self, document: dict[str, Any]) -> dict[str, Any]:
        """Answer ``POST /setup``; its host name and access token are not used.

        Raises:
            ConfigError: If the project cannot have masks.
        """
        if document.get("schema"):
            Labelling.parse(document["schema"])
        return {"model_version": self._version}

    def predict(self, document: dict[str, Any]) -> dict[str, Any]:
        """Answer ``POST /predict``: one prediction per task.

        Raises:
            ConfigError: If the request is not as expected.
            ImageError: If an image cannot be read.
        """
        labelling = Labelling.parse(document.get("label_config"))
        tasks = document.get("tasks")
        if not isinstance(tasks, list):
            raise ConfigError("reading the request: expected a list of tasks")
        params = document.get("params") or {}
        context = params.get("context") if isinstance(params, dict) else None
        asked = Asked.parse(context or None, labelling.labels)
        if context and len(tasks) != 1:
            raise ConfigError(f"reading the request: expected one task, found {len(tasks)}")
        results = [self._task(task, labelling, asked) for task in tasks]
        return {"results": results, "model_version": self._version}

    def _task(self, task: object, labelling: Labelling, asked: Asked) -> dict[str, Any]:
        data = task.get("data") if isinstance(task, dict) else None
        if not isinstance(data, dict):
            raise ConfigError("reading a task: expected an object with data")
        pixels = self._image(data.get(labelling.image_field), labelling.image_field)
        text = asked.text
        if text is None:
            text = _prompt(data, labelling.prompt_field) or asked.label
        if text is not None:
            found = self._predictor(pixels, text)
            if asked.points:
                height, width = pixels.shape[:2]
                points = np.array(asked.points) * (width, height) / 100
                found = self._predictor.refine(found, points=points, labels=asked.inside)
            masks = [(asked.label or _label_of(text, labelling), found)]
        else:
            # Nobody asked for anything: each label is an instruction.
            answers = self._predictor(pixels, list(labelling.labels))
            masks = list(zip(labelling.labels, answers, strict=True))
        regions = [_region(found, label, labelling) for label, found in masks if found.mask.any()]
        score = float(np.mean([found.score for _, found in masks]))
        return {"result": regions, "score": score, "model_version": self._version}

    def _image(self, value: object, field: str) -> NDArray[np.uint8]:
        if not isinstance(value, str) or not value:
            raise ConfigError(f"reading a task: expected an image in the field {field}")
        if value.lower().startswith("data:"):
            return self._images.base64(value)
        if value.startswith(_LOCAL_FILES):
            value = parse_qs(urlsplit(value).query).get("d", [""])[0]
        elif value.startswith(_UPLOADS):
            value = value.removeprefix(_UPLOADS)
        return self._images.file(value)


async def _answer(
    request: Request, max_body: int, act: Callable[[dict[str, Any]], dict[str, Any]]
) -> JSONResponse:
    """Read a JSON object, act on it in a thread, and turn expected errors into one line."""
    # A page of another site can send plain text without asking, but not JSON.
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        return _refusal(415, "expected a request with Content-Type: application/json")
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > max_body:
            return _refusal(413, f"expected a request of at most {max_body} bytes")
    try:
        document = json.loads(bytes(body))
    except (ValueError, RecursionError):
        return _refusal(400, "expected a JSON object, found something else")
    if not isinstance(document, dict):
        return _refusal(400, f"expected a JSON object, found {type(document).__name__}")
    try:
        return JSONResponse(await run_in_threadpool(act, document))
    except LensCacheError as error:
        return _refusal(400, one_line(error))


def _refusal(status: int, reason: str) -> JSONResponse:
    return JSONResponse({"detail": reason}, status)


def _prompt(data: dict[str, Any], field: str | None) -> str | None:
    """Return the text of a task's field; None if it has none.

    Label Studio demands the field in every task, so a blank text means that there is none.
    """
    text = "" if field is None else data.get(field, "")
    if not isinstance(text, str):
        raise ConfigError(f"reading a task: expected a text in the field {field}")
    return text.strip() or None


def _label_of(text: str, labelling: Labelling) -> str:
    """Return the label that a text names, e.g. "the red ring" the label "ring"; else the first."""
    named = [
        label
        for label in labelling.labels
        if re.search(rf"\b{re.escape(label)}", text, re.IGNORECASE)
    ]
    return max(named, key=len, default=labelling.labels[0])


def _region(found: Segmentation, label: str, labelling: Labelling) -> dict[str, Any]:
    height, width = found.mask.shape
    return {
        "id": uuid4().hex[:10],
        "type": "brushlabels",
        "from_name": labelling.brush,
        "to_name": labelling.image,
        "original_width": width,
        "original_height": height,
        "image_rotation": 0,
        "score": found.score,
        "value": {"format": "rle", "rle": encode(found.mask), "brushlabels": [label]},
    }
