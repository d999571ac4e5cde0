"""Dialogue by an OpenAI-compatible server, here one on a port of this machine."""

import base64
import io
import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import numpy as np
import pytest
from PIL import Image

from lens_cache.agent.endpoint import KEY_VARIABLE, ChatEndpoint
from lens_cache.errors import ConfigError, ServiceError
from tests.support.pictures import colours


class Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.seen.append((self.path, dict(self.headers), json.loads(body)))
        status, answer = self.server.answer
        self.send_response(status)
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    server = HTTPServer(("127.0.0.1", 0), Handler)
    server.seen = []
    server.answer = (200, json.dumps({"choices": [{"message": {"content": " a cup "}}]}).encode())
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()


def endpoint(server, **settings):
    return ChatEndpoint(f"http://127.0.0.1:{server.server_port}/v1/", "qwen", **settings)


def test_a_question_is_sent_with_its_picture(server, monkeypatch):
    monkeypatch.setenv(KEY_VARIABLE, "secret-key")
    assert endpoint(server).answer(colours(12, 8), "What is it?", max_new_tokens=7) == "a cup"
    ((path, headers, body),) = server.seen
    assert path == "/v1/chat/completions"
    assert headers["Authorization"] == "Bearer secret-key"
    assert (body["model"], body["max_tokens"], body["temperature"]) == ("qwen", 7, 0)
    image, text = body["messages"][0]["content"]
    assert text == {"type": "text", "text": "What is it?"}
    data = image["image_url"]["url"].removeprefix("data:image/png;base64,")
    sent = np.asarray(Image.open(io.BytesIO(base64.b64decode(data))))
    np.testing.assert_array_equal(sent, colours(12, 8))


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ((401, b"no"), "HTTP 401"),
        ((500, b"no"), "HTTP 500"),
        ((200, b"not json"), "expected a chat completion"),
        ((200, b"{}"), "expected a chat completion"),
        ((200, b'{"choices": []}'), "expected a chat completion"),
    ],
)
def test_an_answer_that_is_none_is_one_line_without_the_key(server, monkeypatch, answer, message):
    monkeypatch.setenv(KEY_VARIABLE, "secret-key")
    server.answer = answer
    with pytest.raises(ServiceError, match=message) as raised:
        endpoint(server).answer(colours(), "a")
    assert "secret-key" not in str(raised.value)


def test_a_server_that_is_not_there_and_a_wrong_address():
    with pytest.raises(ServiceError, match=r"asking http://127.0.0.1:9/v1"):
        ChatEndpoint("http://127.0.0.1:9/v1", "m", timeout=5).answer(colours(), "a")
    for url in ("127.0.0.1:8000", "file:///etc/passwd", "http://"):
        with pytest.raises(ConfigError, match="expected a URL"):
            ChatEndpoint(url, "m")
