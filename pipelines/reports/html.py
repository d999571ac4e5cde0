"""HTML pages: templates that escape all texts, and images embedded as JPEG."""

from __future__ import annotations

import base64
import io

import jinja2
from PIL.Image import Image

from lens_cache.evaluation.intervals import Interval

_JPEG_QUALITY = 85


def template(name: str) -> jinja2.Template:
    """Return the template of a page."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("pipelines"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"percent": _percent, "interval": _interval, "data_uri": data_uri}
    return environment.get_template(name)


def data_uri(image: Image) -> str:
    """Return an image as a ``data:`` URI with a JPEG in it."""
    file = io.BytesIO()
    image.convert("RGB").save(file, "JPEG", quality=_JPEG_QUALITY, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode("ascii")


def _percent(value: float) -> str:
    return f"{100 * value:.1f}"


def _interval(value: Interval) -> str:
    return f"{_percent(value.low)}\u2013{_percent(value.high)}"
