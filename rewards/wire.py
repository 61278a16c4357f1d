"""What judge and candidate say to each other: frames of JSON, values as tagged exact builtins.

Neither side ever unpickles or evaluates anything. Whatever class a returned value had, what arrives is a fresh int, float, str,
bytes, list, tuple, set, dict and so on: overloaded comparisons stay behind in the candidate's process.
"""

from __future__ import annotations

import json
import select
import socket
import struct
import time
from collections.abc import Callable, Mapping
from decimal import Decimal
from fractions import Fraction
from typing import Any

DEPTH = 100  # of nested containers
_HEADER = struct.Struct(">I")
_SMALL = 1 << 53  # larger integers travel in hexadecimal, which is linear in their length
_TYPES = {
    kind.__name__: kind
    for kind in (bool, bytes, complex, dict, float, frozenset, int, list, object, set, str, tuple, type(None))
}


class BadFrame(Exception):
    """The other side sent what is no frame, no known tag, or too much."""


class NoBuiltin(TypeError):
    """A value that cannot travel."""


class Handle:
    """An object that stays in the candidate's process, by its number there."""

    def __init__(self, number: int) -> None:
        self.number = number


def encode(value: Any, depth: int = DEPTH) -> Any:
    """`value` as JSON of tagged builtins. Subclasses travel as their base. Raises NoBuiltin for anything else."""
    if depth == 0:
        raise NoBuiltin(f"a value nested deeper than {DEPTH}")
    if value is None or value is True or value is False:
        return value
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, int):
        return _encode_int(int.__index__(value))
    if isinstance(value, float):
        return {"f": float.__repr__(value)}
    if isinstance(value, list):
        return [encode(item, depth - 1) for item in list.__iter__(value)]
    if isinstance(value, dict):
        return {"d": [[encode(key, depth - 1), encode(item, depth - 1)] for key, item in dict.items(value)]}
    for tag, base in (("t", tuple), ("s", set), ("z", frozenset)):
        if isinstance(value, base):
            return {tag: [encode(item, depth - 1) for item in base.__iter__(value)]}  # type: ignore[arg-type]
    return _encode_rare(value)


def _encode_int(value: int) -> Any:
    return value if -_SMALL < value < _SMALL else {"i": hex(value)}


def _encode_rare(value: Any) -> Any:
    if isinstance(value, bytes):
        return {"b": value.hex()}
    if isinstance(value, bytearray):
        return {"B": value.hex()}
    if isinstance(value, complex):
        return {"c": [repr(value.real), repr(value.imag)]}
    if isinstance(value, range):
        return {"r": [hex(value.start), hex(value.stop), hex(value.step)]}
    if isinstance(value, Decimal):
        return {"D": str(value)}
    if isinstance(value, Fraction):
        return {"F": [hex(value.numerator), hex(value.denominator)]}
    if isinstance(value, type):
        for name, kind in _TYPES.items():
            if kind is value:
                return {"T": name}
    if isinstance(value, Handle):
        return {"h": value.number}
    raise NoBuiltin(f"a value of type {type(value).__name__}, which is no builtin one")


_DECODERS: dict[str, Callable[[Any, Callable[[Any], Any]], Any]] = {
    "i": lambda item, inside: int(item, 16),
    "f": lambda item, inside: float(_text(item)),
    "t": lambda item, inside: tuple(inside(one) for one in _list(item)),
    "s": lambda item, inside: {inside(one) for one in _list(item)},
    "z": lambda item, inside: frozenset(inside(one) for one in _list(item)),
    "d": lambda item, inside: {inside(key): inside(one) for key, one in _list(item)},
    "b": lambda item, inside: bytes.fromhex(item),
    "B": lambda item, inside: bytearray.fromhex(item),
    "c": lambda item, inside: complex(float(_text(item[0])), float(_text(item[1]))),
    "r": lambda item, inside: range(*(int(one, 16) for one in _list(item))),
    "D": lambda item, inside: Decimal(_text(item)),
    "F": lambda item, inside: Fraction(*(int(one, 16) for one in _list(item))),
    "T": lambda item, inside: _TYPES[item],
}


def decode(item: Any, depth: int = DEPTH, handles: Mapping[int, Any] | None = None) -> Any:
    """The value that `encode` made `item` of, in fresh builtins. Raises BadFrame."""
    if item is None or type(item) in (bool, int, str):
        return item
    if depth == 0:
        raise BadFrame("a value nested too deeply")
    try:
        if type(item) is list:
            return [decode(one, depth - 1, handles) for one in item]
        if type(item) is dict and len(item) == 1:
            ((tag, inner),) = item.items()
            if tag == "h" and handles is not None:
                return handles[inner]
            return _DECODERS[tag](inner, lambda one: decode(one, depth - 1, handles))
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise BadFrame(f"a value that cannot be read ({type(error).__name__})") from error
    raise BadFrame("a value that cannot be read")


def _list(item: Any) -> list[Any]:
    if type(item) is not list:
        raise TypeError("wanted a list")
    return item


def _text(item: Any) -> str:
    if type(item) is not str or len(item) > 4096:
        raise TypeError("wanted a short text")
    return item


class Channel:
    """Frames over a stream socket: four bytes of length, then JSON. A deadline is a time.monotonic value; None: no end."""

    def __init__(self, link: socket.socket, cap: int) -> None:
        self.link, self._cap = link, cap
        self._pending = bytearray()
        link.setblocking(False)

    def send(self, message: dict[str, Any], deadline: float | None = None) -> None:
        """Raises TimeoutError, OSError when the other side is gone, BadFrame for a message above the cap."""
        body = json.dumps(message, separators=(",", ":")).encode()
        if len(body) > self._cap:
            raise BadFrame(f"a value of more than {self._cap} bytes")
        data = memoryview(_HEADER.pack(len(body)) + body)
        while data:
            self._wait(select.POLLOUT, deadline)
            try:
                data = data[self.link.send(data) :]
            except BlockingIOError:
                continue

    def receive(self, deadline: float | None = None) -> dict[str, Any]:
        """The next message. Raises TimeoutError, EOFError when the other side is gone, BadFrame."""
        size = _HEADER.unpack(self._take(_HEADER.size, deadline))[0]
        if size > self._cap:
            raise BadFrame(f"a frame of {size} bytes, more than {self._cap}")
        try:
            message = json.loads(self._take(size, deadline))
        except (ValueError, RecursionError) as error:
            raise BadFrame("a frame that is no JSON") from error
        if type(message) is not dict:
            raise BadFrame("a frame that is no message")
        return message

    def _take(self, size: int, deadline: float | None) -> bytes:
        while len(self._pending) < size:
            self._wait(select.POLLIN, deadline)
            try:
                chunk = self.link.recv(1 << 20)
            except BlockingIOError:
                continue
            except ConnectionError as error:
                raise EOFError("connection lost") from error
            if not chunk:
                raise EOFError("connection closed")
            self._pending += chunk
        taken = bytes(self._pending[:size])
        del self._pending[:size]
        return taken

    def _wait(self, event: int, deadline: float | None) -> None:
        poll = select.poll()
        poll.register(self.link, event)
        if deadline is None:
            poll.poll()
            return
        left = deadline - time.monotonic()
        if left <= 0 or not poll.poll(1000 * left):
            raise TimeoutError("deadline passed")
