"""The killable process that a foreign reward function runs in: `python -m mimosa.rewards.function_process FUNCTION`.

The first line that comes in holds its settings (the argument is for those who list processes). It says {"ready", ...} or
{"refused": why} once; then a question a line, {"number", "seconds", "calls"}, is answered by {"number",
"results"}: for each call one outcome an answer. What the function does to the process ends with it: memory has a limit, children are
ended by the parent with the process, and prints go where nobody mistakes them for an answer.
"""

from __future__ import annotations

import asyncio
import base64
import functools
import importlib
import importlib.util
import inspect
import json
import os
import pickle
import resource
import select
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from . import process_tree
from .calls import Call
from .confinement import die_with
from .interfaces import Interface, NoInterface, bound, find, refuse_unknown
from .outcomes import Outcome, Scale, Unsound, several, single

_REAP = 256  # questions between two looks for ended orphans that nobody else waits for
_CAUGHT = (Exception, SystemExit, KeyboardInterrupt)  # sys.exit() in a reward function is no crash of the process


class Function:
    """A foreign function with the way it is called. settings: kind, place, function, arguments, interface, low, high, key, memory."""

    def __init__(self, settings: Mapping[str, Any]) -> None:
        self.arguments: dict[str, Any] = settings["arguments"]
        self.scale = Scale(settings["low"], settings["high"], settings["key"])
        loaded = load(settings["kind"], settings["place"], settings["function"])
        if inspect.isclass(loaded):
            loaded = loaded(**self.arguments)
            self.arguments = {}
        if not callable(loaded):
            raise NoInterface(f"it is no function: {type(loaded).__name__}")
        self.call: Callable[..., Any] = loaded
        self.interface: Interface = find(loaded, settings["interface"])
        refuse_unknown(loaded, self.interface, self.arguments)
        self.file = settings["place"]
        self.loop = asyncio.Runner()  # one for all calls: a function may keep a client that belongs to it

    @property
    def is_async(self) -> bool:
        return any(map(inspect.iscoroutinefunction, (self.call, type(self.call).__call__)))

    def outcomes(self, call: Call) -> list[Outcome]:
        """What the function makes of one call, whatever it does short of ending the process."""
        return self._guarded(call, lambda: self._returned(call))

    async def awaited(self, call: Call, seconds: float) -> list[Outcome]:
        """The same for a coroutine, next to others."""
        end = time.monotonic() + seconds
        try:
            value = await asyncio.wait_for(self._returned(call), seconds)
        except _CAUGHT as error:
            if isinstance(error, TimeoutError) and time.monotonic() >= end:
                return [Outcome("limit", None, "time")] * call.count
            return self._guarded(call, functools.partial(_raise, error))
        return self._guarded(call, lambda: value)

    def _returned(self, call: Call) -> Any:
        positional, keywords = bound(self.call, self.interface, call, self.arguments)
        return self.call(*positional, **keywords)

    def _guarded(self, call: Call, run: Callable[[], Any]) -> list[Outcome]:
        try:
            value = run()
            if inspect.isawaitable(value):
                value = self.loop.run(_finished(value))
            return self._read(value, call.count)
        except (Unsound, NoInterface) as why:
            return [Outcome("verifier_failed", None, str(why))] * call.count
        except MemoryError:
            return [Outcome("limit", None, "memory")] * call.count
        except _CAUGHT as error:
            return [Outcome("verifier_failed", None, f"raised {described(error, self.file)}")] * call.count

    def _read(self, value: Any, count: int) -> list[Outcome]:
        if not self.interface.grouped:
            return [single(value, self.scale)]
        return [
            one if isinstance(one, Outcome) else Outcome("verifier_failed", None, one)
            for one in several(value, count, self.scale)
        ]


def load(kind: str, place: str, name: str) -> Any:
    """The object called `name` in a file or module. Raises what the import raises; NoInterface when there is no such object."""
    if kind == "file":
        sys.path.append(str(Path(place).parent))  # its own neighbours; behind everything that is installed
        found = importlib.util.spec_from_file_location(Path(place).stem, place)
        assert found is not None and found.loader is not None
        module = importlib.util.module_from_spec(found)
        sys.modules.setdefault(found.name, module)
        found.loader.exec_module(module)
    else:
        sys.path.append(os.getcwd())
        module = importlib.import_module(place)
    try:
        return functools.reduce(getattr, name.split("."), module)
    except AttributeError as error:
        own = [key for key, one in vars(module).items() if inspect.isroutine(one) and one.__module__ == module.__name__]
        raise NoInterface(f"there is no {name!r} in it; it has {', '.join(own) or 'no functions'}") from error


def described(error: BaseException, file: str) -> str:
    """Type and message of what the function raised, and the line of its file."""
    try:
        text = f"{type(error).__name__}: {error}"
    except Exception:  # noqa: BLE001 - the border to foreign code: an exception's own text may raise too
        text = type(error).__name__
    frames = traceback.extract_tb(error.__traceback__)
    line = next((frame.lineno for frame in reversed(frames) if frame.filename == file), None)
    return f"{text} (line {line})" if line else text


async def _finished(value: Any) -> Any:
    return await value


def _raise(error: BaseException) -> Any:
    raise error


def answered(question: dict[str, Any], function: Function) -> list[list[Outcome]]:
    """The outcomes of a question's calls; those of a coroutine run side by side."""
    calls = [Call(row, answers) for row, answers in pickle.loads(base64.b64decode(question["calls"]))]
    if not (function.is_async and len(calls) > 1):
        return [function.outcomes(call) for call in calls]

    async def together() -> list[list[Outcome]]:
        return await asyncio.gather(*(function.awaited(call, question["seconds"]) for call in calls))

    return function.loop.run(together())


def main() -> None:
    """Loads the function, then answers questions until there are no more."""
    replies, questions = os.dup(1), os.dup(0)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)  # what the function prints
    own = os.getpid()
    _watch(questions, replies)
    lines = open(questions, "rb")  # noqa: SIM115 - as long as the process
    settings = json.loads(lines.readline())
    process_tree.adopt_orphans()
    resource.setrlimit(resource.RLIMIT_DATA, (settings["memory"], settings["memory"]))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        function = Function(settings)
    except NoInterface as why:
        return _reply(replies, {"refused": str(why)})
    except _CAUGHT as error:
        return _reply(replies, {"refused": f"loading it raised {described(error, settings['place'])}"})
    _reply(replies, {
        "ready": True, "interface": function.interface.name, "grouped": function.interface.grouped,
        "asynchronous": function.is_async,
    })  # fmt: skip
    for line in lines:
        question = json.loads(line)
        found = answered(question, function)
        if os.getpid() != own:  # the function forked and returned twice
            os._exit(0)
        if question["number"] % _REAP == 0:
            process_tree.reap()
        results = [[one.to_dict() for one in outcomes] for outcomes in found]
        _reply(replies, {"number": question["number"], "results": results})


def _watch(questions: int, replies: int) -> None:
    """A child that ends this process and all below it when the parent is gone: a thread could not, while C code holds the lock."""
    own = os.getpid()
    if os.fork():
        return
    try:
        os.close(replies)
        die_with(own)
        poll = select.poll()
        poll.register(questions, 0)  # hangups are always told
        poll.poll()
        process_tree.end(own)
    finally:
        os._exit(0)


def _reply(replies: int, message: dict[str, Any]) -> None:
    data = memoryview(json.dumps(message).encode() + b"\n")
    while data:
        data = data[os.write(replies, data) :]


if __name__ == "__main__":
    main()
