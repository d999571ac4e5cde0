"""The page: upload a picture, ask, see and correct masks, talk about them, download them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
from fastapi import FastAPI, HTTPException
from fastapi.responses import RedirectResponse
from numpy.typing import NDArray

from lens_cache.errors import LensCacheError, one_line
from lens_cache.predictor.checks import MAX_INSTRUCTION
from pipelines.serve.api import PAGE, Service
from pipelines.serve.batcher import QueueFullError
from pipelines.serve.conversation import Conversation
from pipelines.serve.drawing import (
    VIEWS,
    Look,
    describe,
    display_scale,
    downloads,
    thumbnails,
    view,
)

INSIDE, OUTSIDE = "inside the target", "outside it"
DOWNLOADS = (
    ("Mask", "download-mask"),
    ("Overlay", "download-overlay"),
    ("JSON", "download-json"),
)
_CSS = """
.gradio-container { max-width: 1200px !important; margin: auto; }
#picture img { cursor: crosshair; image-rendering: auto; }
footer { display: none !important; }
"""
_FONT = ("system-ui", "sans-serif")
_MONO = ("ui-monospace", "monospace")


class _Page:
    """The components of the page and what they do."""

    def __init__(self, service: Service, examples: list[Path], folder: Path) -> None:
        self._service = service
        self._folder = folder
        self._examples = examples
        self._conversations: dict[str, Conversation] = {}
        with gr.Blocks(title="lens-cache", analytics_enabled=False) as self.blocks:
            self._lay_out(examples)
            self._connect()
        self.blocks.queue(max_size=service.limits.max_queue, api_open=False)

    def _lay_out(self, examples: list[Path]) -> None:
        talks = self._service.talks
        gr.Markdown("# lens-cache\nChoose a picture, say what to mark, click to correct.")
        with gr.Row():
            self.upload = gr.File(
                label="Your picture",
                file_types=["image"],
                height=130,
                min_width=240,
                elem_id="upload",
            )
            self.examples = gr.Gallery(
                value=[str(path) for path in examples],
                label="or an example",
                columns=len(examples) or 1,
                height=130,
                min_width=240,
                object_fit="contain",
                allow_preview=False,
                buttons=[],
                elem_id="examples",
                visible=bool(examples),
            )
        with gr.Row():
            with gr.Column(scale=3, min_width=300):
                self.picture = gr.Image(
                    label="Picture", elem_id="picture", interactive=False, format="png", buttons=[]
                )
                self.about = gr.Markdown(elem_id="about")
            with gr.Column(scale=2, min_width=300):
                self.chat = gr.Chatbot(
                    label="Conversation",
                    height=300,
                    elem_id="chat",
                    buttons=[],
                    placeholder="Ask for a mask, or ask a question" if talks else "Ask for a mask",
                )
                self.text = gr.Textbox(
                    label="Request",
                    placeholder="Please mark the red ring." if talks else "the red ring",
                    elem_id="request",
                    max_length=MAX_INSTRUCTION,
                    submit_btn=True,
                )
        with gr.Row():
            with gr.Column(scale=3, min_width=300), gr.Group():
                with gr.Row():
                    self.what = gr.Radio(VIEWS, value="mask", label="Show", elem_id="show")
                    self.sign = gr.Radio([INSIDE, OUTSIDE], value=INSIDE, label="A click is")
                with gr.Row():
                    self.opacity = gr.Slider(0, 1, value=0.55, step=0.05, label="Opacity")
                    self.keypoints = gr.Checkbox(True, label="Keypoints and clicks")
            with gr.Column(scale=2, min_width=300):
                self.history = gr.Gallery(
                    label="Masks so far",
                    columns=3,
                    fit_columns=False,
                    height=150,
                    object_fit="contain",
                    allow_preview=False,
                    buttons=[],
                    elem_id="history",
                )
                with gr.Row():
                    self.files = [
                        gr.DownloadButton(
                            label, size="sm", min_width=90, interactive=False, elem_id=key
                        )
                        for label, key in DOWNLOADS
                    ]

    def _connect(self) -> None:
        shown: list[Any] = [self.picture, self.about, *self.files, self.history]
        how: list[Any] = [self.what, self.opacity, self.keypoints]
        self.upload.upload(self._on_upload, [self.upload, *how], [*shown, self.chat])
        self.examples.select(self._on_example, how, [*shown, self.chat])
        self.text.submit(
            self._on_request, [self.text, self.chat, *how], [self.text, self.chat, *shown]
        )
        self.picture.select(self._on_click, [self.sign, *how], shown)
        self.history.select(self._on_history, how, shown)
        for component in how:
            component.input(self._on_view, how, self.picture)
        self.blocks.unload(self._on_leave)

    def _of(self, request: gr.Request) -> Conversation:
        """Return the visitor's conversation; the oldest of too many is forgotten."""
        key = str(request.session_hash)
        if key not in self._conversations:
            while len(self._conversations) >= self._service.limits.max_sessions:
                self._conversations.pop(next(iter(self._conversations)))
            self._conversations[key] = Conversation(self._service)
        return self._conversations[key]

    def _on_leave(self, request: gr.Request) -> None:
        self._conversations.pop(str(request.session_hash), None)

    def _shown(self, conversation: Conversation, look: Look) -> list[Any]:
        files = downloads(conversation.shown, self._folder)
        return [
            view(conversation, look),
            describe(conversation.shown),
            *(gr.DownloadButton(value=path, interactive=path is not None) for path in files),
            thumbnails(conversation),
        ]

    # Gradio passes the values of the inputs by position, then what the annotations ask for.

    def _on_upload(
        self, path: str, what: str, opacity: float, keypoints: bool, request: gr.Request
    ) -> list[Any]:
        conversation = self._of(request)
        with _plain_errors():
            conversation.load(path)
        return [*self._shown(conversation, Look(what, opacity, keypoints)), []]

    def _on_example(
        self,
        what: str,
        opacity: float,
        keypoints: bool,
        request: gr.Request,
        event: gr.SelectData,
    ) -> list[Any]:
        # By its number: a path in the event would be one that the visitor chose.
        path = str(self._examples[event.index])
        return self._on_upload(path, what, opacity, keypoints, request)

    def _on_request(
        self,
        text: str,
        messages: list[Any],
        what: str,
        opacity: float,
        keypoints: bool,
        request: gr.Request,
    ) -> Iterator[list[Any]]:
        conversation = self._of(request)
        asked = [*messages, {"role": "user", "content": text}]
        yield ["", asked, *[gr.skip()] * 6]
        with _plain_errors():
            reply = conversation.ask(text)
        answered = [*asked, {"role": "assistant", "content": reply}]
        yield ["", answered, *self._shown(conversation, Look(what, opacity, keypoints))]

    def _on_click(
        self,
        sign: str,
        what: str,
        opacity: float,
        keypoints: bool,
        request: gr.Request,
        event: gr.SelectData,
    ) -> list[Any]:
        conversation = self._of(request)
        if conversation.pixels is not None:
            scale = display_scale(conversation.pixels)
            x, y = ((value + 0.5) / scale for value in event.index)
            with _plain_errors():
                conversation.click(x, y, sign == INSIDE)
        return self._shown(conversation, Look(what, opacity, keypoints))

    def _on_history(
        self,
        what: str,
        opacity: float,
        keypoints: bool,
        request: gr.Request,
        event: gr.SelectData,
    ) -> list[Any]:
        conversation = self._of(request)
        conversation.choose(event.index)
        return self._shown(conversation, Look(what, opacity, keypoints))

    def _on_view(
        self, what: str, opacity: float, keypoints: bool, request: gr.Request
    ) -> NDArray[np.uint8] | None:
        return view(self._of(request), Look(what, opacity, keypoints))


@contextmanager
def _plain_errors() -> Iterator[None]:
    """Show an expected error to the visitor in one line."""
    try:
        yield
    except QueueFullError:
        raise gr.Error("Too many requests wait; try again.") from None
    except TimeoutError:
        raise gr.Error("There was no answer in time; try again.") from None
    except HTTPException as error:
        raise gr.Error(str(error.detail)) from None
    except LensCacheError as error:
        raise gr.Error(one_line(error)) from None


def add_page(
    app: FastAPI, examples: list[Path], folder: Path, *, token: str | None, root_path: str = ""
) -> FastAPI:
    """Mount the page at ``/page``; ``/`` leads there.

    Args:
        app: The application of ``api.create_app``.
        examples: Pictures to try.
        folder: Folder for downloads; the caller removes it.
        token: Password of the page; it is open if None.
        root_path: Path of the server behind a proxy, such as ``/lens``.
    """
    service: Service = app.state.service
    page = _Page(service, examples, folder)

    @app.get("/", include_in_schema=False)
    async def to_page() -> RedirectResponse:
        return RedirectResponse(f"{root_path}{PAGE}/")

    mounted: FastAPI = gr.mount_gradio_app(
        app,
        page.blocks,
        PAGE,
        auth=None if token is None else ("lens", token),
        auth_message="User: lens. Password: the token of the server.",
        root_path=f"{root_path}{PAGE}" if root_path else None,
        allowed_paths=[str(folder), *(str(path) for path in examples)],
        max_file_size=service.limits.max_bytes,
        ssr_mode=False,
        run_history=False,
        footer_links=[],
        theme=gr.themes.Default(font=_FONT, font_mono=_MONO),
        css=_CSS,
    )
    return mounted
