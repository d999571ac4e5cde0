"""Run the server: the HTTP API and the page, on one port."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import uvicorn

from lens_cache.agent.agent import Talker
from lens_cache.assets import SHAPES_PICTURES
from lens_cache.images.files import IMAGE_SUFFIXES, files_in
from lens_cache.predictor import LensPredictor
from lens_cache.predictor.trained_head import SHAPES
from pipelines.serve.api import create_app
from pipelines.serve.label_studio import label_studio_router
from pipelines.serve.limits import Limits
from pipelines.serve.page import add_page

LOOPBACK = ("127.0.0.1", "::1", "localhost")
# Seconds that running requests have after the first signal to stop.
_SHUTDOWN = 20


def tell_now(text: str) -> None:
    """Print a line at once: a log that is a pipe would keep it until the server ends."""
    print(text, flush=True)


def serve(
    predictor: LensPredictor,
    *,
    talker: Talker | None = None,
    host: str = "127.0.0.1",
    port: int = 7860,
    token: str | None = None,
    limits: Limits | None = None,
    page: bool = True,
    label_studio: Path | None = None,
    root_path: str = "",
    tell: Callable[[str], None] = tell_now,
) -> None:
    """Serve until a signal arrives.

    Args:
        predictor: Makes the masks.
        talker: Talks instead of the predictor's own multimodal LLM.
        host: Address to listen on; only programs of this machine reach the default.
        port: Port.
        token: Clients must send it; none if None.
        limits: The limits; the defaults if None.
        page: Whether to serve the page too.
        label_studio: Also answer Label Studio, whose tasks may name image files below this folder.
        root_path: Path of the server behind a proxy, such as ``/lens``.
        tell: Receives lines for the user.
    """
    local = host in LOOPBACK
    # A name that leads to this machine by a stranger's DNS must not reach a server without a token.
    hosts = [*LOOPBACK, "[::1]", "testserver"] if local and not root_path else None
    app = create_app(predictor, talker=talker, limits=limits, token=token, hosts=hosts)
    if label_studio is not None:
        app.include_router(
            label_studio_router(
                predictor, label_studio, max_body=app.state.service.limits.max_bytes
            )
        )
    with tempfile.TemporaryDirectory(prefix="lens-cache-serve-") as folder:
        if page:
            add_page(app, _examples(predictor), Path(folder), token=token, root_path=root_path)
        url = f"http://{f'[{host}]' if ':' in host else host}:{port}{root_path}"
        tell(f"serving {predictor.head.name} on {url}/ ({predictor.device}); API: {url}/docs")
        if not local and token is None:
            tell("warning: anyone who reaches this address can use it; give --token")
        try:
            uvicorn.run(
                app,
                host=host,
                port=port,
                root_path=root_path,
                log_level="warning",
                timeout_graceful_shutdown=_SHUTDOWN,
                timeout_keep_alive=10,
                limit_concurrency=1000,
            )
        finally:
            app.state.service.batcher.close()


def _examples(predictor: LensPredictor) -> list[Path]:
    """Return pictures to try: those of the world of shapes, for its head."""
    if predictor.head.name != SHAPES:
        return []
    return [SHAPES_PICTURES / name for name in files_in(SHAPES_PICTURES, IMAGE_SUFFIXES)]
