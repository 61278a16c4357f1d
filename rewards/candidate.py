"""What runs in the candidate's process: foreign code, its calls, its returned values.

Everything here may be patched, read or bypassed by that code. Nothing here decides anything: the judge compares what comes back,
and learns from the kernel how the process ended.
"""

from __future__ import annotations

import atexit
import builtins
import contextlib
import os
import sys
import threading
import types
from typing import Any

from .wire import BadFrame, Channel, Handle, decode, encode

NAME = "solution"
_SAID = 200  # characters of an exception


class Candidate:
    """The loaded solution and the objects that the tests made of its classes."""

    def __init__(self) -> None:
        self._module = types.ModuleType(NAME)
        self._held: list[Any] = []

    def load(self, message: dict[str, Any]) -> Any:
        sys.modules[NAME] = self._module
        _execute(message["code"], self._module)
        if message["entry"] not in self._module.__dict__:
            raise NameError(f"the solution does not define {message['entry']!r}")
        return True

    def call(self, message: dict[str, Any]) -> Any:
        function = self._module.__dict__[message["name"]]
        arguments, named = self._decoded(message)
        return encode(function(*arguments, **named))

    def make(self, message: dict[str, Any]) -> Any:
        """An instance of one of the solution's classes, which stays here."""
        arguments, named = self._decoded(message)
        self._held.append(self._module.__dict__[message["name"]](*arguments, **named))
        return encode(Handle(len(self._held) - 1))

    def set(self, message: dict[str, Any]) -> Any:
        setattr(self._held[message["handle"]], message["name"], self._value(message["value"]))
        return None

    def get(self, message: dict[str, Any]) -> Any:
        value = getattr(self._held[message["handle"]], message["name"])
        for number, held in enumerate(self._held):
            if held is value:
                return encode(Handle(number))
        return encode(value)

    def _decoded(self, message: dict[str, Any]) -> tuple[list[Any], dict[str, Any]]:
        arguments = [self._value(item) for item in message["args"]]
        return arguments, {key: self._value(item) for key, item in message["named"].items()}

    def _value(self, item: Any) -> Any:
        return decode(item, handles=dict(enumerate(self._held)))


def serve(channel: Channel) -> None:
    """Answers the judge until it hangs up."""
    candidate = Candidate()
    while True:
        try:
            message = channel.receive()
        except EOFError:
            return
        if message["do"] == "program":
            _run_program(channel, message["code"])
        try:
            reply = {"value": getattr(candidate, message["do"])(message)}
            channel.send(reply)
        except BadFrame as error:
            channel.send({"raised": ["ValueError", str(error)]})
        except BaseException as error:  # noqa: BLE001 - the border to foreign code
            channel.send({"raised": _described(error)})


def _run_program(channel: Channel, code: str) -> None:
    """The whole program with its stdin and stdout, and the end of the process."""
    main = types.ModuleType("__main__")
    sys.modules["__main__"] = main
    sys.stdin = open(0, encoding="utf-8", errors="surrogateescape", closefd=False)  # noqa: SIM115 - for good
    sys.stdout = open(1, "w", encoding="utf-8", errors="surrogateescape", closefd=False)  # noqa: SIM115 - for good
    status = 0
    try:
        _execute(code, main)
    except SystemExit as error:
        status = _exit_status(error)
    except BaseException as error:  # noqa: BLE001 - the border to foreign code
        channel.send({"raised": _described(error)})
        status = 1
    with contextlib.suppress(Exception):
        threading._shutdown()  # type: ignore[attr-defined]
        atexit._run_exitfuncs()
    try:
        sys.stdout.flush()
    except Exception as error:  # noqa: BLE001 - the border to foreign code: its stdout may be anything
        channel.send({"raised": _described(error)})
        status = 1
    os._exit(status)


def _exit_status(error: SystemExit) -> int:
    if error.code is None:
        return 0
    return error.code & 255 if isinstance(error.code, int) else 1


def _execute(code: str, module: types.ModuleType) -> None:
    module.__dict__["__builtins__"] = builtins
    exec(compile(code, f"<{NAME}>", "exec", dont_inherit=True), module.__dict__)


def _described(error: BaseException) -> list[str]:
    """The nearest builtin class of an exception, and what it says."""
    kinds = [kind.__name__ for kind in type(error).__mro__ if getattr(builtins, kind.__name__, None) is kind]
    try:
        said = str(error)[:_SAID]
    except BaseException:  # noqa: BLE001 - the border to foreign code: an exception's own text may raise too
        said = ""
    own = type(error).__name__
    return [kinds[0] if kinds else "Exception", said if own in kinds[:1] else f"{own} {said}"[:_SAID]]
