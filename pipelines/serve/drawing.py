"""How the page shows a mask: pictures, one line of text, files to download."""

from __future__ import annotations

import json
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from lens_cache.images.overlay import tint
from lens_cache.predictor import Segmentation
from pipelines.serve.conversation import Conversation

VIEWS = ("mask", "heat map", "image")
# Pictures are shown larger than they are, so that small ones can be clicked.
LEAST_SIDE = 512


@dataclass(frozen=True)
class Look:
    """How the picture is shown: one of ``VIEWS``, opacity of the mask, keypoints and clicks."""

    what: str
    opacity: float
    keypoints: bool


def view(conversation: Conversation, look: Look) -> NDArray[np.uint8] | None:
    """Draw the picture with what the visitor wants to see; None without a picture."""
    if conversation.pixels is None:
        return None
    shown = conversation.shown
    scale = display_scale(conversation.pixels)
    height, width = (round(side * scale) for side in conversation.pixels.shape[:2])
    if shown is None or look.what == "image":
        drawn = Image.fromarray(conversation.pixels).resize((width, height))
    elif look.what == "heat map":
        drawn = shown.heat_map(max(width, height))
    else:
        large = Image.fromarray(conversation.pixels).resize((width, height))
        mask = Image.fromarray(shown.mask).resize((width, height), Image.Resampling.NEAREST)
        drawn = Image.fromarray(tint(np.asarray(large), np.asarray(mask), opacity=look.opacity))
    if shown is not None and look.keypoints and look.what == "mask":
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
