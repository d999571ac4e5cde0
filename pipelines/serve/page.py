"""The page: upload a picture, ask, see and correct masks, talk about them, download them."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
from fastapi import FastAPI, HTTPException
from fastapi.responses import RedirectResponse
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from lens_cache.agent.agent import LensAgent
from lens_cache.errors import LensCacheError, one_line
from lens_cache.images.overlay import tint
from lens_cache.predictor import Segmentation
from lens_cache.predictor.checks import require_instruction
from pipelines.serve.api import PAGE, Service
from pipelines.serve.batcher import QueueFullError

VIEWS = ("mask", "heat map", "image")
INSIDE, OUTSIDE = "inside the target", "outside it"
# Shown larger than it is, so that small pictures can be clicked.
LEAST_SIDE = 512
_CSS = """
.gradio-container { max-width: 1200px !important; margin: auto; }
#picture img { cursor: crosshair; image-rendering: auto; }
footer { display: none !important; }
"""
_FONT = ("system-ui", "sans-serif")
_MONO = ("ui-monospace", "monospace")


class Conversation:
    """What one visitor of the page sees.

    Attributes:
        agent: The agent of the visitor; None for a server that cannot talk.
        pixels: The picture, shape (H, W, 3); None before there is one.
        masks: All masks of the visitor, the oldest first.
        shown: The mask that is shown; None if there is none for the picture.
    """

    def __init__(self, service: Service) -> None:
        self.service = service
        self.agent: LensAgent | None = service.sessions.start()[1] if service.talks else None
        self.pixels: NDArray[np.uint8] | None = None
        self.masks: list[Segmentation] = []
        self.shown: Segmentation | None = None

    def load(self, path: str) -> None:
        """Use another picture."""
        self.pixels = self.service.decode(Path(path).read_bytes())
        self.shown = None
        if self.agent is not None:
            self.agent.set_image(self.pixels)

    def ask(self, text: str) -> str:
        """Send a request; returns the reply in words."""
        require_instruction(text)
        if self.pixels is None:
            return "Please choose a picture first."
        if self.agent is None:
            future = self.service.batcher.segment(self.pixels, [text])
            self._add(future.result(self.service.limits.answer_seconds)[0])
            return "Done."
        agent = self.agent
        call = self.service.batcher.call(lambda: agent(text))
        reply: Any = call.result(self.service.limits.answer_seconds)
        self.service.metrics.routed(reply.route)
        if reply.segmentation is not None:
            self._add(reply.segmentation)
        return str(reply.text)

    def click(self, x: float, y: float, inside: bool) -> None:
        """Correct the mask that is shown by a point in pixels of the picture."""
        shown = self.shown
        if shown is None:
            raise gr.Error("There is no mask to correct yet.")
        predictor, agent = self.service.predictor, self.agent

        def correct() -> Segmentation:
            found = predictor.refine(shown, points=[(x, y)], labels=[int(inside)])
            if agent is not None and agent.memory.chosen is shown:
                agent.memory.replace_chosen(found)
            return found

        call = self.service.batcher.call(correct)
        found: Any = call.result(self.service.limits.answer_seconds)
        self.masks[self.masks.index(shown)] = found
        self.shown = found

    def choose(self, number: int) -> None:
        """Show an earlier mask, which follow-ups are about from now on."""
        self.shown = self.masks[number]
        self.pixels = self.shown.image
        if self.agent is not None:
            self.agent.set_image(self.pixels)
            if self.shown in self.agent.memory.masks:
                self.agent.memory.choose(self.agent.memory.masks.index(self.shown) + 1)

    def _add(self, found: Segmentation) -> None:
        self.masks.append(found)
        self.shown = found


def view(
    conversation: Conversation, what: str, opacity: float, keypoints: bool
) -> NDArray[np.uint8] | None:
    """Draw the picture with what the visitor wants to see; None without a picture."""
    if conversation.pixels is None:
        return None
    shown = conversation.shown
    scale = display_scale(conversation.pixels)
    height, width = (round(side * scale) for side in conversation.pixels.shape[:2])
    if shown is None or what == "image":
        drawn = Image.fromarray(conversation.pixels).resize((width, height))
    elif what == "heat map":
        drawn = shown.heat_map(max(width, height))
    else:
        large = Image.fromarray(conversation.pixels).resize((width, height))
        mask = Image.fromarray(shown.mask).resize((width, height), Image.Resampling.NEAREST)
        drawn = Image.fromarray(tint(np.asarray(large), np.asarray(mask), opacity=opacity))
    if shown is not None and keypoints and what == "mask":
        _draw_points(drawn, shown, scale)
    return np.asarray(drawn)


def display_scale(pixels: NDArray[np.uint8]) -> float:
    """Return how much larger a picture is shown, at least 1."""
    return max(1.0, LEAST_SIDE / float(max(pixels.shape[:2])))


def _draw_points(drawn: Image.Image, shown: Segmentation, scale: float) -> None:
    draw = ImageDraw.Draw(drawn)
    radius = max(4, max(drawn.size) // 120)
    for (x, y), label in zip(shown.keypoints * scale, shown.keypoint_labels, strict=True):
        box = (x - radius, y - radius, x + radius, y + radius)
        draw.ellipse(box, fill="white" if label else (230, 40, 40), outline=(20, 20, 20))
    for click in shown.clicks:
        x, y, size = click.x * scale, click.y * scale, radius + 2
        box = (x - size, y - size, x + size, y + size)
        draw.rectangle(box, fill=(60, 200, 90) if click.inside else (230, 40, 40), outline="white")


def describe(shown: Segmentation | None) -> str:
    """Return one line about a mask, as Markdown."""
    if shown is None:
        return ""
    kind = "expected IoU" if shown.calibrated else "stability"
    clicks = f" · {len(shown.clicks)} clicks" if shown.clicks else ""
    return (
        f"**{_escaped(shown.instruction)}** · {kind} {shown.score:.2f} · "
        f"{shown.mask.mean():.1%} of the picture{clicks}"
    )


def _escaped(text: str) -> str:
    return "".join(f"\\{c}" if c in "\\`*_{}[]<>#|~" else c for c in text)


def downloads(shown: Segmentation | None, folder: Path) -> tuple[str | None, ...]:
    """Write mask, overlay and JSON of a mask; returns their paths."""
    if shown is None:
        return None, None, None
    target = Path(tempfile.mkdtemp(dir=folder))
    shown.save(target / "mask.png")
    shown.overlay().save(target / "overlay.png")
    document = {
        **shown.to_coco(),
        "keypoints": shown.keypoints.tolist(),
        "keypoint_labels": shown.keypoint_labels.tolist(),
        "clicks": [vars(click) for click in shown.clicks],
    }
    (target / "mask.json").write_text(json.dumps(document, indent=1))
    return tuple(str(target / name) for name in ("mask.png", "overlay.png", "mask.json"))


def thumbnails(conversation: Conversation) -> list[tuple[Image.Image, str]]:
    """Return the history: an overlay and the instruction of every mask."""
    return [(mask.overlay(), mask.instruction) for mask in conversation.masks]


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
            with gr.Column(scale=3, min_width=320):
                self.picture = gr.Image(
                    label="Picture", elem_id="picture", interactive=False, format="png", buttons=[]
                )
                self.about = gr.Markdown(elem_id="about")
                with gr.Row():
                    self.what = gr.Radio(VIEWS, value="mask", label="Show", elem_id="show")
                    self.sign = gr.Radio([INSIDE, OUTSIDE], value=INSIDE, label="A click is")
                with gr.Row():
                    self.opacity = gr.Slider(0, 1, value=0.55, step=0.05, label="Opacity")
                    self.keypoints = gr.Checkbox(True, label="Keypoints and clicks")
                with gr.Row():
                    self.files = [
                        gr.DownloadButton(f"{name}", size="sm", interactive=False, elem_id=key)
                        for name, key in (
                            ("Mask (PNG)", "download-mask"),
                            ("Overlay (PNG)", "download-overlay"),
                            ("JSON with RLE", "download-json"),
                        )
                    ]
            with gr.Column(scale=2, min_width=320):
                self.upload = gr.File(
                    label="Your picture", file_types=["image"], height=110, elem_id="upload"
                )
                self.examples = gr.Gallery(
                    value=[str(path) for path in examples],
                    label="or an example",
                    columns=len(examples) or 1,
                    height=130,
                    allow_preview=False,
                    elem_id="examples",
                    visible=bool(examples),
                )
                self.chat = gr.Chatbot(
                    label="Conversation",
                    height=300,
                    elem_id="chat",
                    buttons=[],
                    placeholder="Ask for a mask, or ask a question" if talks else "Ask for a mask",
                )
                self.text = gr.Textbox(
                    label="Request",
                    placeholder="the red ring" if not talks else "Please mark the red ring.",
                    elem_id="request",
                    max_length=4096,
                    submit_btn=True,
                )
                self.history = gr.Gallery(
                    label="Masks so far",
                    columns=4,
                    height=160,
                    allow_preview=False,
                    elem_id="history",
                )

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

    def _shown(self, conversation: Conversation, *how: Any) -> list[Any]:
        files = downloads(conversation.shown, self._folder)
        return [
            view(conversation, *how),
            describe(conversation.shown),
            *(gr.DownloadButton(value=path, interactive=path is not None) for path in files),
            thumbnails(conversation),
        ]

    def _on_upload(self, path: str, *rest: Any, request: gr.Request) -> list[Any]:
        conversation = self._of(request)
        with _plain_errors():
            conversation.load(path)
        return [*self._shown(conversation, *rest), []]

    def _on_example(self, *how: Any, request: gr.Request, event: gr.SelectData) -> list[Any]:
        # By its number: a path in the event would be one that the visitor chose.
        return self._on_upload(str(self._examples[event.index]), *how, request=request)

    def _on_request(
        self, text: str, messages: list[Any], *how: Any, request: gr.Request
    ) -> Iterator[list[Any]]:
        conversation = self._of(request)
        asked = [*messages, {"role": "user", "content": text}]
        same = [gr.skip()] * 6
        yield ["", asked, *same]
        with _plain_errors():
            reply = conversation.ask(text)
        answered = [*asked, {"role": "assistant", "content": reply}]
        yield ["", answered, *self._shown(conversation, *how)]

    def _on_click(
        self, sign: str, *how: Any, request: gr.Request, event: gr.SelectData
    ) -> list[Any]:
        conversation = self._of(request)
        if conversation.pixels is not None:
            scale = display_scale(conversation.pixels)
            x, y = ((value + 0.5) / scale for value in event.index)
            with _plain_errors():
                conversation.click(x, y, sign == INSIDE)
        return self._shown(conversation, *how)

    def _on_history(self, *how: Any, request: gr.Request, event: gr.SelectData) -> list[Any]:
        conversation = self._of(request)
        conversation.choose(event.index)
        return self._shown(conversation, *how)

    def _on_view(self, *how: Any, request: gr.Request) -> NDArray[np.uint8] | None:
        return view(self._of(request), *how)


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
