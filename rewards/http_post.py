"""One JSON question to an HTTP endpoint: bounded as a whole, asked again with growing pauses while that can help."""

from __future__ import annotations

import http.client
import json
import random
import socket
import threading
import time
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

MOST = 8 << 20  # bytes of an answer
_PAUSE = 0.1  # seconds before the second attempt, doubled before each further one
_LONGEST = 5.0  # seconds
_AGAIN = (408, 429, 500, 502, 503, 504)  # what a busy or restarting server says


class NoAnswer(Exception):
    """The endpoint gave none that can be read; the message says what the last attempt met."""


def post(address: str, body: Mapping[str, Any], headers: Mapping[str, str], seconds: float, attempts: int) -> Any:
    """The decoded answer to `body`. seconds: for all attempts with their pauses. Raises NoAnswer.

    A refused or lost connection and the statuses of a busy server are tried again. Redirects are not followed, proxies not used.
    """
    data = json.dumps(body, default=str).encode()
    end = time.monotonic() + seconds
    met = ""
    for attempt in range(attempts):
        wait = 0.0
        try:
            status, pause, content = _once(address, data, headers, end - time.monotonic())
            if status == 200:
                return _decoded(content)
            met = f"status {status}: {content[:120].decode(errors='replace')}"
            if status not in _AGAIN:
                break
            wait = pause
        except (OSError, http.client.HTTPException) as error:
            met = str(error) or type(error).__name__
        left = end - time.monotonic()
        if left <= 0:
            raise NoAnswer(f"no answer within {seconds:g} s" + (f" ({met})" if met else ""))
        wait = max(wait, min(_LONGEST, _PAUSE * 2**attempt) * random.uniform(0.5, 1.0))
        if attempt + 1 == attempts or wait >= left:
            break
        time.sleep(wait)
    raise NoAnswer(f"no answer after {attempt + 1} attempts: {met}")


def _once(address: str, data: bytes, headers: Mapping[str, str], seconds: float) -> tuple[int, float, bytes]:
    """Status, pause that the server asks for in seconds, and content. Raises OSError, HTTPException."""
    if seconds <= 0:
        raise TimeoutError("out of time")
    end = time.monotonic() + seconds
    parts = urlsplit(address)
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    connection = kind(parts.hostname or "", parts.port, timeout=seconds)
    try:
        connection.connect()
        # A socket's timeout holds for each read, not for all; and the connection forgets its socket once the answer begins.
        cut = threading.Timer(max(0.0, end - time.monotonic()), _cut, [connection.sock])
        cut.daemon = True
        cut.start()
        try:
            return _answer(connection, parts.path or "/", parts.query, data, headers)
        finally:
            cut.cancel()
            if time.monotonic() >= end:  # what came may be a part
                raise TimeoutError("out of time")
    finally:
        connection.close()


def _answer(
    connection: http.client.HTTPConnection, path: str, query: str, data: bytes, headers: Mapping[str, str]
) -> tuple[int, float, bytes]:
    try:
        target = f"{path}?{query}" if query else path
        connection.request("POST", target, data, {"Content-Type": "application/json", **headers})
        with connection.getresponse() as response:
            content = response.read(MOST + 1)
            if len(content) > MOST:
                raise OSError(f"an answer of more than {MOST} bytes")
            return response.status, _pause(response.getheader("Retry-After")), content
    except (ValueError, AttributeError) as error:  # what http.client makes of a socket that was cut under it
        raise OSError(f"connection lost: {error}") from error


def _cut(held: socket.socket) -> None:
    try:
        socket.socket.shutdown(held, socket.SHUT_RDWR)  # of the plain socket: TLS would want to say goodbye
    except OSError:
        return  # it is closed already


def _pause(text: str | None) -> float:
    return float(text) if text and text.isdigit() else 0.0


def _decoded(content: bytes) -> Any:
    try:
        return json.loads(content)
    except (ValueError, RecursionError) as error:
        raise NoAnswer(f"the answer is no JSON: {content[:60]!r}") from error
