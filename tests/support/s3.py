"""A real S3-speaking server on loopback, and a proxy before it that fails like a bad day does."""

import http.client
import random
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from s3fs import S3FileSystem

KEY, SECRET = "AKIATESTTESTTESTTEST", "this-secret-must-never-be-written-anywhere"
BUCKET = "lens"


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextmanager
def s3_server():
    """Start moto's server in a process of its own; yields its URL."""
    port = free_port()
    arguments = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    server = subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        until = time.monotonic() + 120
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except OSError:
                assert server.poll() is None, "moto does not start"
                assert time.monotonic() < until, "moto does not answer"
                time.sleep(0.1)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait()


def environment(endpoint):
    """Return the variables that lead to a server."""
    return {
        "AWS_ACCESS_KEY_ID": KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": endpoint,
    }


@contextmanager
def led_to(endpoint, **variables):
    """Let this process speak to another server for a while."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {**environment(endpoint), **variables}.items():
            patch.setenv(name, value)
        S3FileSystem.clear_instance_cache()
        yield
    S3FileSystem.clear_instance_cache()


def filesystem():
    """Return a filesystem that remembers nothing."""
    return S3FileSystem(use_listings_cache=False)


def everything(url):
    """Return every object below a URL, by name."""
    base, fs = url.split("://", 1)[1].rstrip("/") + "/", filesystem()
    names = fs.find(base)
    found = fs.cat_ranges(names, [None] * len(names), [None] * len(names))
    return {name.removeprefix(base): data for name, data in zip(names, found, strict=True)}


def objects(url):
    """Return every object of a store but the records of runs, by name."""
    return {name: data for name, data in everything(url).items() if not name.startswith("runs/")}


def uploads():
    """Return the unfinished uploads of the bucket."""
    return [upload["Key"] for upload in filesystem().list_multipart_uploads(BUCKET)]


class Proxy(ThreadingHTTPServer):
    """Passes requests on to a server and spoils a share of them.

    Attributes:
        share: Which share of requests is spoilt, 0 to 1.
        kinds: How: ``500``, ``503`` and ``404`` are answered and not passed on; ``slow`` is passed
            on late, ``drop`` is passed on and the line cut before the answer, ``late`` is passed
            on and answered with 500.
        spoilt: How often each kind happened.
        requests: How often each method was asked for.
        only: Which requests may be spoilt, as a function of method and path.
    """

    daemon_threads = True

    def __init__(self, target, *, share, kinds=("500", "503", "slow", "drop", "late"), seed=0):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.target = target.removeprefix("http://")
        self.share, self.kinds = share, kinds
        self.only = lambda command, path: True
        self.spoilt, self.requests = Counter(), Counter()
        self._chance, self._lock = random.Random(seed), threading.Lock()

    def fate(self, command, path):
        with self._lock:
            self.requests[command] += 1
            if not self.only(command, path) or self._chance.random() >= self.share:
                return "pass"
            kind = self._chance.choice(self.kinds)
            self.spoilt[kind] += 1
            return kind

    def handle_error(self, *_):
        """Say nothing: clients hang up."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        """Say nothing."""

    def pass_on(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        fate = self.server.fate(self.command, self.path)
        if fate.isdigit():
            self.answer(int(fate))
            return
        if fate == "slow":
            time.sleep(0.3)
        line = http.client.HTTPConnection(self.server.target, timeout=60)
        line.request(self.command, self.path, body, dict(self.headers.items()))
        response = line.getresponse()
        data = response.read()
        line.close()
        if fate == "late":
            self.answer(500)
        elif fate == "drop":
            self.close_connection = True
        else:
            self.send_response_only(response.status)
            for name, value in response.getheaders():
                if name.lower() not in ("connection", "transfer-encoding", "content-length"):
                    self.send_header(name, value)
            length = response.getheader("Content-Length") if self.command == "HEAD" else len(data)
            self.send_header("Content-Length", str(length or 0))
            self.end_headers()
            self.wfile.write(data)

    def answer(self, status):
        code = {500: "InternalError", 503: "SlowDown", 404: "NoSuchUpload"}[status]
        data = f"<Error><Code>{code}</Code><Message>spoilt by the test</Message></Error>".encode()
        data = b"" if self.command == "HEAD" else data
        self.send_response_only(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = pass_on


@contextmanager
def proxy(target, **how):
    """Run a proxy; yields it with its URL as ``url``."""
    server = Proxy(target, **how)
    server.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
