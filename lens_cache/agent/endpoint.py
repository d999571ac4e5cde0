"""Dialogue by another model: a server with OpenAI's chat completions."""

from __future__ import annotations

import json
import os
import urllib.error
import urllib.request
from typing import Any
from urllib.parse import urlsplit

from PIL import Image

from lens_cache.errors import ConfigError, ServiceError, one_line
from lens_cache.images.inputs import ImageInput, rgb_pixels
from lens_cache.images.png import png_base64

# Sent as a bearer token if it is set; never printed.
KEY_VARIABLE = "LENS_CACHE_CHAT_KEY"


class ChatEndpoint:
    """Answers questions about an image through ``POST URL/chat/completions``.

    Args:
        url: Base URL, such as ``http://127.0.0.1:8000/v1``.
        model: Name of the model there.
        timeout: Seconds to wait for an answer.

    Raises:
        ConfigError: If the URL is not one of http or https.
    """

    def __init__(self, url: str, model: str, *, timeout: float = 60.0) -> None:
        if urlsplit(url).scheme not in ("http", "https") or not urlsplit(url).netloc:
            raise ConfigError(
                f"the chat endpoint {url}: expected a URL such as http://127.0.0.1:8000/v1"
            )
        self._url = f"{url.rstrip('/')}/chat/completions"
        self._model = model
        self._timeout = timeout

    def answer(self, image: ImageInput, text: str, *, max_new_tokens: int = 256) -> str:
        """Return the server's answer; arguments as for ``LensPredictor.answer``.

        Raises:
            ServiceError: If the server does not answer, or not as expected.
        """
        url = f"data:image/png;base64,{png_base64(Image.fromarray(rgb_pixels(image)))}"
        body = {
            "model": self._model,
            "max_tokens": max_new_tokens,
            "temperature": 0,
            "messages": [
                {
                    "role": "user",
                    "content": [
                        {
                            "type": "image_url",
                            "image_url": {"url": url},
                        },
                        {"type": "text", "text": text},
                    ],
                }
            ],
        }
        headers = {"Content-Type": "application/json"}
        if key := os.environ.get(KEY_VARIABLE):
            headers["Authorization"] = f"Bearer {key}"
        request = urllib.request.Request(self._url, json.dumps(body).encode(), headers)
        try:
            with urllib.request.urlopen(request, timeout=self._timeout) as response:
                document: Any = json.load(response)
            answer = document["choices"][0]["message"]["content"]
        except urllib.error.HTTPError as error:
            raise ServiceError(
                f"asking {self._url}: HTTP {error.code} {error.reason}; check --chat-endpoint, "
                f"--chat-model and {KEY_VARIABLE}"
            ) from None
        except OSError as error:
            raise ServiceError(f"asking {self._url}: {one_line(error, 160)}") from None
        except (ValueError, LookupError, TypeError):
            raise ServiceError(
                f"asking {self._url}: expected a chat completion, found something else"
            ) from None
        return str(answer).strip()
