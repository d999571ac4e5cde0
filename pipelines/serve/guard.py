"""What every request passes before the application sees it: token, size, time."""

from __future__ import annotations

import asyncio
import hmac
import json
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from pipelines.serve.limits import Limits
from pipelines.serve.metrics import Metrics

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]
# Answered without a token: a load balancer asks it.
OPEN_PATHS = ("/healthz",)


class _Refused(Exception):
    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


class Guard:
    """An ASGI middleware.

    Args:
        app: The application.
        limits: The limits.
        metrics: Counts the answers.
        token: Clients of the API must send it (``Authorization: Bearer ...``); none if None. The
            page has its own login.
        page: Path of the page.
    """

    def __init__(
        self, app: App, *, limits: Limits, metrics: Metrics, token: str | None, page: str
    ) -> None:
        self._app = app
        self._limits = limits
        self._metrics = metrics
        self._token = token
        self._page = page

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] != "http" or self._is_page(scope["path"]):
            await self._app(scope, receive, send)
            return
        started, status = time.perf_counter(), 0

        async def counted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = int(message["status"])
            await send(message)

        try:
            self._check(scope)
            await self._app(scope, self._bounded(receive), counted)
        except _Refused as refused:
            if not status:
                await _refuse(counted, refused.status, str(refused))
        finally:
            self._metrics.answered(scope, status or 499, time.perf_counter() - started)

    def _is_page(self, path: str) -> bool:
        return path == "/" or path == self._page or path.startswith(f"{self._page}/")

    def _check(self, scope: Message) -> None:
        headers = {name.lower(): value for name, value in scope["headers"]}
        if self._token is not None and scope["path"] not in OPEN_PATHS:
            expected = f"Bearer {self._token}".encode()
            if not hmac.compare_digest(headers.get(b"authorization", b""), expected):
                raise _Refused(401, "expected the server's token: Authorization: Bearer TOKEN")
        length = headers.get(b"content-length", b"0")
        if length.isdigit() and int(length) > self._limits.max_bytes:
            raise _Refused(
                413, f"expected at most {self._limits.max_bytes} bytes, found {int(length)}"
            )

    def _bounded(self, receive: Receive) -> Receive:
        """Limit the bytes of a body, and the time that a client takes to send it."""
        read, done = 0, False
        deadline = time.monotonic() + self._limits.body_seconds

        async def bounded() -> Message:
            nonlocal read, done
            if done:  # the application waits for the client to hang up
                return await receive()
            try:
                message = await asyncio.wait_for(receive(), deadline - time.monotonic())
            except TimeoutError:
                raise _Refused(
                    408, f"the request was not complete after {self._limits.body_seconds:g} seconds"
                ) from None
            if message["type"] == "http.request":
                read += len(message.get("body", b""))
                done = not message.get("more_body", False)
            if read > self._limits.max_bytes:
                raise _Refused(413, f"expected at most {self._limits.max_bytes} bytes")
            return message

        return bounded


async def _refuse(send: Send, status: int, reason: str) -> None:
    body = json.dumps({"detail": reason}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    if status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    if status in (408, 413):  # the rest of the body was not read
        headers.append((b"connection", b"close"))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
