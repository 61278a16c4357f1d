"""Which system a reward function was written for, told by its parameters' names, and the arguments it is called with there.

| interface     | told by                                      | one call is for                     |
|---------------|----------------------------------------------|-------------------------------------|
| verl          | solution_str (plural: solution_strs)         | one answer (plural: a group)        |
| openrlhf      | queries                                      | a group                             |
| slime         | args with sample (plural: samples)           | one answer (plural: a group)        |
| areal         | completions with prompt or prompt_ids        | one answer                          |
| trl           | completions                                  | a group                             |
| verifiers     | completion, or state, task, info, answer ... | one answer (plural names: a group)  |
| torchforge    | response with target                         | one answer                          |
| mimosa        | response                                     | one answer                          |
| mimosa-group  | responses                                    | a group                             |

A group is all answers to one prompt. Other parameters are columns of the row, by name, or the option `arguments`; `**kwargs` take what
is left. Imports nothing heavy: it runs in the process that loads the function.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from .calls import Call

Known = Mapping[str, Any]
VERIFIERS = {"completion", "answer", "state", "task", "info"}
VERIFIERS_GROUP = {"answers", "states", "tasks", "infos"}


class NoInterface(Exception):
    """The function cannot be called as any known system calls one; the message says what is missing."""


@dataclass(frozen=True, slots=True)
class Interface:
    """A system's way to call a reward function. known: the arguments that it has names for."""

    name: str
    grouped: bool
    known: Callable[[Call, Known], dict[str, Any]]
    columns: bool = True  # whether **kwargs take the row's columns


def _verl(call: Call, _: Known) -> dict[str, Any]:
    return {
        "data_source": call.data_source, "solution_str": call.text, "ground_truth": call.truth,
        "extra_info": call.extra_info,
    }  # fmt: skip


def _verl_group(call: Call, _: Known) -> dict[str, Any]:
    n = call.count
    return {
        "data_sources": [call.data_source] * n, "solution_strs": call.texts, "ground_truths": [call.truth] * n,
        "extra_infos": [dict(call.extra_info) for _ in range(n)],
    }  # fmt: skip


def _openrlhf(call: Call, _: Known) -> dict[str, Any]:
    prompt = call.prompt_text
    return {
        "queries": [prompt + text for text in call.texts], "prompts": [prompt] * call.count,
        "labels": [call.truth] * call.count,
    }  # fmt: skip


def _slime(call: Call, arguments: Known) -> dict[str, Any]:
    return {"args": call.settings(arguments), "sample": call.samples[0]}


def _slime_group(call: Call, arguments: Known) -> dict[str, Any]:
    return {"args": call.settings(arguments), "samples": call.samples}


def _areal(call: Call, _: Known) -> dict[str, Any]:
    return {
        "prompt": call.prompt_text, "completions": call.text, "prompt_ids": call.prompt_ids,
        "completion_ids": call.token_ids[0],
    }  # fmt: skip


def _trl(call: Call, _: Known) -> dict[str, Any]:
    def ignore(*_: Any, **__: Any) -> None:
        """log_extra and log_metric have no table here to write to."""

    return {
        "prompts": [call.prompt] * call.count, "completions": call.completions(call.is_chat),
        "completion_ids": call.token_ids, "trainer_state": None, "log_extra": ignore, "log_metric": ignore,
    }  # fmt: skip


def _verifiers(call: Call, _: Known) -> dict[str, Any]:
    state = call.states[0]
    return {name: state[name] for name in ("prompt", "completion", "answer", "task", "info")} | {"state": state}


def _verifiers_group(call: Call, _: Known) -> dict[str, Any]:
    states = call.states
    known: dict[str, Any] = {
        f"{name}s": [state[name] for state in states] for name in ("prompt", "completion", "answer", "task", "info")
    }
    return known | {"states": states}


def _torchforge(call: Call, _: Known) -> dict[str, Any]:
    return {"prompt": call.prompt_text, "response": call.text, "target": call.truth}


def _plain(call: Call, _: Known) -> dict[str, Any]:
    return {
        "response": call.text, "ground_truth": call.truth, "prompt": call.prompt, "id": call.row["id"],
        "truncated": call.truncated[0],
    }  # fmt: skip


def _plain_group(call: Call, _: Known) -> dict[str, Any]:
    return {
        "responses": call.texts, "ground_truth": call.truth, "prompt": call.prompt, "id": call.row["id"],
        "truncated": call.truncated,
    }  # fmt: skip


INTERFACES = {
    one.name: one
    for one in (
        Interface("verl", False, _verl, columns=False),
        Interface("verl-group", True, _verl_group, columns=False),
        Interface("openrlhf", True, _openrlhf),
        Interface("slime", False, _slime, columns=False),
        Interface("slime-group", True, _slime_group, columns=False),
        Interface("areal", False, _areal),
        Interface("trl", True, _trl),
        Interface("verifiers", False, _verifiers),
        Interface("verifiers-group", True, _verifiers_group),
        Interface("torchforge", False, _torchforge),
        Interface("mimosa", False, _plain),
        Interface("mimosa-group", True, _plain_group),
    )
}


def find(function: Callable[..., Any], wanted: str = "auto") -> Interface:
    """The interface that the parameters' names tell, or the one that is wanted. Raises NoInterface."""
    if wanted != "auto":
        return INTERFACES[wanted]
    try:
        names = set(inspect.signature(function).parameters)
    except (TypeError, ValueError) as error:
        raise NoInterface(f"its parameters cannot be read ({error}); the option interface names one") from error
    for told, name in _TOLD:
        if told(names):
            return INTERFACES[name]
    listed = ", ".join(sorted(names)) or "none"
    raise NoInterface(f"its parameters ({listed}) are those of no known interface: {', '.join(INTERFACES)}")


_TOLD: tuple[tuple[Callable[[set[str]], Any], str], ...] = (
    (lambda names: "solution_str" in names, "verl"),
    (lambda names: "solution_strs" in names, "verl-group"),
    (lambda names: "queries" in names, "openrlhf"),
    (lambda names: {"args", "sample"} <= names, "slime"),
    (lambda names: {"args", "samples"} <= names, "slime-group"),
    (lambda names: "completions" in names and names & {"prompt", "prompt_ids"}, "areal"),
    (lambda names: names & {"states", "infos", "tasks"}, "verifiers-group"),
    (lambda names: {"completions", "answers"} <= names, "verifiers-group"),
    (lambda names: "completions" in names, "trl"),
    (lambda names: "responses" in names, "mimosa-group"),
    (lambda names: {"response", "target"} <= names, "torchforge"),
    (lambda names: "response" in names, "mimosa"),
    (lambda names: "answers" in names, "verifiers-group"),
    (lambda names: names & VERIFIERS, "verifiers"),
)


def refuse_unknown(function: Callable[..., Any], interface: Interface, arguments: Known) -> None:
    """Raises NoInterface for an argument that the function does not take: it may be misspelt. slime's travel in its args."""
    parameters = inspect.signature(function).parameters
    if interface.name.startswith("slime") or any(one.kind is one.VAR_KEYWORD for one in parameters.values()):
        return
    for name in arguments:
        if name not in parameters:
            raise NoInterface(f"it takes no argument {name!r}; it has {', '.join(parameters)}")


def bound(
    function: Callable[..., Any], interface: Interface, call: Call, arguments: Known
) -> tuple[list[Any], dict[str, Any]]:
    """Positional and keyword arguments of one call. Raises NoInterface for a parameter that nothing is known for."""
    known = interface.known(call, arguments)
    columns = call.columns(interface.grouped)
    positional: list[Any] = []
    keywords: dict[str, Any] = {}
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind is parameter.VAR_POSITIONAL:
            continue
        if parameter.kind is parameter.VAR_KEYWORD:
            others = columns if interface.columns else {}
            further = {} if interface.name.startswith("slime") else arguments  # slime's are in its args
            keywords = {**others, **known, **further, **keywords}
            continue
        source = next((place for place in (arguments, known, columns) if parameter.name in place), None)
        if source is None and parameter.default is not parameter.empty:
            continue
        value = call.stand_in(parameter.name, interface.grouped) if source is None else source[parameter.name]
        if source is None and value is None:
            raise NoInterface(
                f"nothing is known for its parameter {parameter.name!r}; the row has {', '.join(sorted(columns)) or 'no columns'}"
            )
        if parameter.kind is parameter.POSITIONAL_ONLY:
            positional.append(value)
        else:
            keywords[parameter.name] = value
    return positional, keywords
