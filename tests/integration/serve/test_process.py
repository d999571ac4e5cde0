"""A server as users start it: real sockets, rude clients, a signal at the end."""

import signal
import socket
import subprocess
import sys
import time
import urllib.request

import httpx
import pytest

from tests.integration.serve.conftest import RED_RING, RING
from tests.support import REPOSITORY


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="module")
def server():
    port = free_port()
    command = [sys.executable, "-m", "pipelines", "serve", "--no-page", "--no-talk"]
    process = subprocess.Popen(
        [*command, "--device", "cpu", "--port", str(port)],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    for _ in range(3000):
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=10)
            break
        except OSError:
            assert process.poll() is None, process.stdout.read()
            time.sleep(0.1)
    yield process, port
    if process.poll() is None:
        process.kill()
    process.wait()
    process.stdout.close()


def works(port):
    answer = httpx.post(
        f"http://127.0.0.1:{port}/segment",
        files={"image": ("a.png", RING)},
        data={"instruction": RED_RING},
        timeout=120,
    )
    return answer.status_code == 200 and answer.json()["masks"][0]["area"] > 0


def test_clients_that_hang_up_or_send_half_a_body_harm_no_one(server):
    process, port = server
    assert works(port)
    head = (
        f"POST /segment HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n"
        "Content-Type: multipart/form-data; boundary=x\r\nContent-Length: 40000\r\n\r\n"
    ).encode()
    part = b'--x\r\nContent-Disposition: form-data; name="image"; filename="a.png"\r\n\r\n' + RING
    for data in (b"", head[:30], head, head + part, b"nonsense\r\n\r\n"):
        with socket.create_connection(("127.0.0.1", port), timeout=30) as client:
            client.sendall(data)
    assert works(port)
    assert process.poll() is None


def test_the_server_refuses_other_names_and_other_machines(server):
    _, port = server
    url = f"http://127.0.0.1:{port}/healthz"
    assert httpx.get(url, headers={"Host": "evil.example"}).status_code == 400
    addresses = {info[4][0] for info in socket.getaddrinfo(socket.gethostname(), None)}
    for address in addresses - {"127.0.0.1", "::1"}:
        with pytest.raises(OSError, match=r"."), socket.create_connection((address, port), 5):
            pass


def test_a_signal_ends_it(server):
    process, _ = server
    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate(timeout=120)
    assert "serving shapes on http://127.0.0.1:" in out
    assert "Traceback" not in out
