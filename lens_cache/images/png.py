"""Images as PNG files in base64, as JSON carries them."""

from __future__ import annotations

import base64
import io

from PIL import Image


def png_base64(image: Image.Image) -> str:
    """Return an image as a PNG file in base64."""
    stream = io.BytesIO()
    image.save(stream, "PNG")
    return base64.b64encode(stream.getvalue()).decode("ascii")
