"""Tests in the form of assertions, run by the judge on a stand-in whose calls go to the candidate's process.

Trusted code from the row and values from the candidate meet here, and only as exact builtins. Whatever the candidate does to its own
process, the one thing it can bring about here is a returned value or an exception of a known class.
"""

from __future__ import annotations

import ast
import builtins
import importlib
import sys
import time
from collections.abc import Callable
from traceback import walk_stack, walk_tb
from types import FrameType
from typing import Any

from .sandbox import Session, fault_of
from .steps import heard, note
from .wire import BadFrame, Handle, NoBuiltin, decode, encode

Outcome = tuple[float | None, str]  # the score, None when the judge could not tell, and the reason
_NEVER_RAISED = (StopIteration, StopAsyncIteration, UnicodeError, BaseExceptionGroup)  # or not made of a text alone
# What a candidate may raise. Not StopIteration: within `all(map(candidate, inputs))` it would end the loop, and pass.
_RAISED: dict[str, type[Exception]] = {
    name: kind
    for name, kind in vars(builtins).items()
    if isinstance(kind, type) and issubclass(kind, Exception) and not issubclass(kind, _NEVER_RAISED)
}
_TESTS = "<tests>"  # stands for a file's name
_SHOWN = 200  # characters of a value in an explanation
_BROKEN = (NameError, ImportError, SyntaxError)  # raised by the tests themselves, they are about the tests


class CandidateGone(BaseException):
    """The candidate's process will not answer any more; no Exception, so that tests do not catch it by accident."""


class TestsBroken(BaseException):
    """The tests ask for what this verifier cannot do."""


class AssertTests:
    """One run of one row's tests on one candidate. deadline: a time.monotonic value."""

    def __init__(self, tests: dict[str, Any], session: Session, deadline: float) -> None:
        self._tests, self._session, self._deadline = tests, session, deadline
        self.fault = ""  # of the candidate; stays, whatever the tests make of it
        self._broken = ""
        self._calls = 0
        self._at = ""  # the line of the tests that calls now, where somebody wants to know
        self._last_raised: BaseException | None = None
        self._objects: dict[int, Remote] = {}

    def run(self, code: str) -> Outcome:
        try:
            prelude, trials = self._compiled()
        except (SyntaxError, ValueError) as error:
            return None, f"the tests do not compile: {error}"
        try:
            self._load(code)
            note("load", "the program defines {!r}", self._tests["entry_point"])
            self._try(prelude, trials)
        except BaseException as error:  # noqa: BLE001 - the tests are foreign code to the judge too
            if heard():
                lines = [line for frame, line in walk_tb(error.__traceback__) if _is_test(frame)]
                note("failed", "{}", self._place(lines))
            return self._failed(error)
        self._passed()
        if self._broken:
            return None, self._broken
        if self.fault:
            return 0.0, self.fault
        if not self._calls:
            return None, "the tests never called the candidate"
        return 1.0, f"all tests passed, {self._calls} calls"

    def _compiled(self) -> tuple[ast.Module, ast.Module]:
        return ast.parse(self._tests.get("prelude") or ""), ast.parse(self._tests["code"])

    def _load(self, code: str) -> None:
        reply = self._ask({"do": "load", "code": code, "entry": self._tests["entry_point"]})
        if "raised" in reply:
            error = self._exception(reply["raised"])
            self.fault = f"did not load: {type(error).__name__} {error}"
            raise CandidateGone

    def _try(self, prelude: ast.Module, trials: ast.Module) -> None:
        entry = self._tests["entry_point"]
        stand_in = self._function(entry)
        names: dict[str, Any] = {"__name__": "tests", "__builtins__": builtins}
        names |= {name: self._supplied(name) for name in _unbound(prelude, trials) if self._can_supply(name)}
        exec(compile(prelude, "<prelude>", "exec", dont_inherit=True), names)
        names[entry] = stand_in
        exec(compile(trials, _TESTS, "exec", dont_inherit=True), names)
        check = names.get("check")
        if check is not None and check is not stand_in:
            names[entry] = stand_in  # which the tests took away from a function that is itself called check
            check(stand_in)

    def _failed(self, error: BaseException) -> Outcome:
        if self._broken:
            return None, self._broken
        if self.fault:
            return 0.0, self.fault
        if error is self._last_raised:
            return 0.0, f"call {self._calls} raised {type(error).__name__}: {error}"
        if isinstance(error, AssertionError):
            return 0.0, f"a test failed after call {self._calls}"
        if isinstance(error, _BROKEN) or not isinstance(error, Exception):
            return None, f"the tests raised {type(error).__name__}: {error}"
        return 0.0, f"a test raised {type(error).__name__} after call {self._calls}"

    def _function(self, name: str) -> Callable[..., Any]:
        def candidate(*args: Any, **named: Any) -> Any:
            self._calls += 1
            if heard():
                return self._explained(name, args, named)
            return self._called(name, args, named)

        candidate.__name__ = candidate.__qualname__ = name
        return candidate

    def _called(self, name: str, args: tuple[Any, ...], named: dict[str, Any]) -> Any:
        return self._value(self._ask(self._message("call", name, args, named)), handles=False)

    def _explained(self, name: str, args: tuple[Any, ...], named: dict[str, Any]) -> Any:
        """The call, with steps that say where the tests make it, what comes back, and which lines of the tests have passed."""
        place = self._place([line for frame, line in walk_stack(sys._getframe()) if _is_test(frame)][:1])
        if place != self._at:
            self._passed()
            self._at = place
        given = ", ".join([*map(_shown, args), *(f"{key}={_shown(one)}" for key, one in named.items())])
        try:
            value = self._called(name, args, named)
        except BaseException as error:
            how = f": {self.fault}" if self.fault else f" raised {type(error).__name__}: {error}"
            note(f"call {self._calls}", "{}: {}({}){}", place, name, given, how)
            raise
        note(f"call {self._calls}", "{}: {}({}) returned {}", place, name, given, _shown(value))
        return value

    def _passed(self) -> None:
        if self._at:
            note("passed", "{}", self._at)

    def _place(self, lines: list[int]) -> str:
        """The last of these lines of the tests, with its text."""
        texts = self._tests["code"].splitlines()
        if not lines or lines[-1] > len(texts):
            return "outside the tests' own lines"
        return f"line {lines[-1]} of the tests, {texts[lines[-1] - 1].strip()!r}"

    @staticmethod
    def _can_supply(name: str) -> bool:
        return name in sys.stdlib_module_names or name[:1].isupper()

    def _supplied(self, name: str) -> Any:
        """What tests leave to the solution: the import of a standard module, and classes for their arguments."""
        return importlib.import_module(name) if name in sys.stdlib_module_names else self._maker(name)

    def _maker(self, name: str) -> Callable[..., Any]:
        """Stands for a class that the tests use and the solution defines; its objects stay with the candidate."""

        def make(*args: Any, **named: Any) -> Any:
            return self._value(self._ask(self._message("make", name, args, named)), handles=True)

        return make

    def _message(self, do: str, name: str, args: tuple[Any, ...], named: dict[str, Any]) -> dict[str, Any]:
        fields = {
            "args": [self._packed(one) for one in args],
            "named": {key: self._packed(one) for key, one in named.items()},
        }
        return {"do": do, "name": name, **fields}

    def _packed(self, value: Any) -> Any:
        try:
            return encode(value)
        except NoBuiltin as error:
            raise self._unfit(str(error)) from error

    def _unfit(self, what: str) -> TestsBroken:
        self._broken = self._broken or f"the tests pass {what}"
        return TestsBroken()

    def ask_attribute(self, handle: int, name: str) -> Any:
        return self._value(self._ask({"do": "get", "handle": handle, "name": name}), handles=True)

    def set_attribute(self, handle: int, name: str, value: Any) -> None:
        self._value(
            self._ask({"do": "set", "handle": handle, "name": name, "value": self._packed(value)}), handles=False
        )

    def _value(self, reply: dict[str, Any], handles: bool) -> Any:
        if "raised" in reply:
            self._last_raised = self._exception(reply["raised"])
            raise self._last_raised
        try:
            item = reply.get("value")
            if handles and type(item) is dict and type(item.get("h")) is int:
                return self._objects.setdefault(item["h"], Remote(self, item["h"]))
            return decode(item)
        except BadFrame as error:
            raise self._gone(f"returned {error}") from error

    def _exception(self, raised: Any) -> Exception:
        if type(raised) is not list or [type(one) for one in raised] != [str, str]:
            raise self._gone("sent a reply that cannot be read")
        name, said = raised
        if name.startswith("Unicode") and name not in _RAISED:
            return ValueError(f"{name} {said}")
        return _RAISED[name](said) if name in _RAISED else RuntimeError(f"{name} {said}")

    def _ask(self, message: dict[str, Any]) -> dict[str, Any]:
        if self.fault:
            raise CandidateGone
        try:
            self._send(message)
            return self._session.channel.receive(self._deadline)
        except TimeoutError as error:
            raise self._gone("ran into the time limit") from error
        except BadFrame as error:
            raise self._gone(f"sent {error}") from error
        except (EOFError, OSError) as error:
            raise self._gone(self._ending()) from error

    def _send(self, message: dict[str, Any]) -> None:
        try:
            self._session.channel.send(message, self._deadline)
        except BadFrame as error:  # the code itself is bounded before
            raise self._unfit(str(error)) from error

    def _ending(self) -> str:
        if not self._session.ended_by(min(self._deadline, time.monotonic() + 0.2)):
            return "closed its link to the judge"
        return fault_of(self._session.end())

    def _gone(self, fault: str) -> CandidateGone:
        self.fault = self.fault or f"the candidate {fault}"
        return CandidateGone()


class Remote(Handle):
    """An object in the candidate's process. Its attributes can be read and set, and it can be passed to calls."""

    def __init__(self, tests: AssertTests, number: int) -> None:
        object.__setattr__(self, "number", number)
        object.__setattr__(self, "_tests", tests)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return self._tests.ask_attribute(self.number, name)

    def __setattr__(self, name: str, value: Any) -> None:
        self._tests.set_attribute(self.number, name, value)


def _is_test(frame: FrameType) -> bool:
    return frame.f_code.co_filename == _TESTS


def _shown(value: Any) -> str:
    try:
        text = repr(value)
    except ValueError:  # a whole number of thousands of digits
        return f"a value of type {type(value).__name__} that is too long to show"
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}... ({len(text)} characters)"


def _unbound(*modules: ast.Module) -> set[str]:
    """Names that the tests use and bind nowhere, builtins aside."""
    used: set[str] = set()
    bound: set[str] = set(dir(builtins))
    for node in (node for module in modules for node in ast.walk(module)):
        if isinstance(node, ast.Name):
            (used if isinstance(node.ctx, ast.Load) else bound).add(node.id)
        elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            bound.add(node.name)
        elif isinstance(node, ast.alias):
            bound.add((node.asname or node.name).partition(".")[0])
        elif isinstance(node, ast.arg):
            bound.add(node.arg)
    return used - bound
