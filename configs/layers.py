"""Where settings come from: a preset, a file with the presets it builds on, the command line. Each is one layer."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from .errors import ConfigError
from .keys import is_free_form, key_types, known_keys, nearest, owner, sections

PRESETS = Path(__file__).parent
COMMAND_LINE = "command line"
NULL = "tag:yaml.org,2002:null"


@dataclass(frozen=True)
class Layer:
    """What one place sets."""

    origin: str  # "preset quickstart", a file's path, or "command line"
    values: dict[str, Any]  # by dotted key of the schema; entries of a free-form mapping are inside its value


def preset_names() -> list[str]:
    return sorted(path.stem for path in PRESETS.glob("*.yaml"))


def read_overrides(overrides: list[str]) -> Layer:
    """The command line's `key=value` words; of a key given twice the last counts."""
    values: dict[str, Any] = {}
    for word in overrides:
        key, sign, text = word.partition("=")
        key = key.strip()
        if not sign or not key:
            raise ConfigError(f"{COMMAND_LINE}: got {word!r}, wanted key=value")
        _known(key, COMMAND_LINE)
        if key_types().get(key) is str and text[:1] not in ("'", '"'):
            value: Any = "" if text in ("null", "~") else text  # as typed: a template is no YAML
        else:
            value = _value(key, _compose(text, f"{COMMAND_LINE}: {key}"), COMMAND_LINE)
        _put(values, key, value)
    return Layer(COMMAND_LINE, values)


def read_preset_or_file(name: str, below: tuple[Path, ...] = (), folder: Path = Path()) -> list[Layer]:
    """The layers of a preset or a YAML file, those it builds on first. `below` are the files that led here."""
    path, origin = _find(name, folder)
    if path.resolve() in below:
        chain = " -> ".join([*(step.name for step in below), path.name])
        raise ConfigError(f"{origin}: base: got a loop ({chain}), wanted a chain of presets that ends")
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{origin}: cannot be read: {error}") from error
    root = _compose(text, origin)
    if root.tag == NULL:
        return [Layer(origin, {})]
    if not isinstance(root, yaml.MappingNode):
        raise ConfigError(f"{origin}: got {_construct(root)!r}, wanted a mapping of keys to values")
    base, values = _read_mapping(root, origin)
    layers = read_preset_or_file(base, (*below, path.resolve()), path.parent) if base else []
    return [*layers, Layer(origin, values)]


def _find(name: str, folder: Path) -> tuple[Path, str]:
    """The file of a preset's name or of a path, relative to `folder`, and how to call it in an error."""
    if name in preset_names():
        return PRESETS / f"{name}.yaml", f"preset {name}"
    path = folder / Path(name).expanduser()
    if path.is_file():
        return path, str(path)
    if path.suffix in (".yaml", ".yml") or len(path.parts) > len(folder.parts) + 1:
        raise ConfigError(f"{path}: no such file")
    known = preset_names()
    raise ConfigError(
        f"unknown preset {name!r}, the nearest is {nearest(name, known)!r}; "
        f"wanted a YAML file or one of {', '.join(known)}"
    )


def _compose(text: str, origin: str) -> yaml.Node:
    """The YAML graph of `text`, its scalars still as written, so that a text stays a text whatever it looks like."""
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        place = f"line {mark.line + 1}, column {mark.column + 1}" if mark else "somewhere"
        raise ConfigError(f"{origin}: not YAML at {place}: {error.problem or error.context}") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{origin}: not YAML: {' '.join(str(error).split())}") from error
    return node if node is not None else yaml.ScalarNode(NULL, "")


def _read_mapping(root: yaml.MappingNode, origin: str) -> tuple[str, dict[str, Any]]:
    """The `base` of a file, "" without one, and the values it sets."""
    base = ""
    values: dict[str, Any] = {}
    for key, node in _leaves(root, ""):
        if key == "base":
            base = str(node.value)
            continue
        name = _known(key, origin)
        if name == key and key in values and not is_free_form(key):
            raise ConfigError(f"{origin}: {key}: set twice, wanted once (line {node.start_mark.line + 1})")
        _put(values, key, _value(key, node, origin))
    return base, values


def _leaves(node: yaml.MappingNode, prefix: str) -> Iterator[tuple[str, yaml.Node]]:
    """Every key below `node` with its value; sections are descended into, keys of the schema are not."""
    for name, child in node.value:
        key = f"{prefix}{name.value}"
        inside = isinstance(child, yaml.MappingNode) and key not in key_types() and child.value
        if inside:
            yield from _leaves(child, f"{key}.")
        elif key not in sections() or (child.tag != NULL and child.value):  # an empty section sets nothing
            yield key, child


def _known(key: str, origin: str) -> str:
    """The schema's key that `key` belongs to; ConfigError when there is none."""
    name = owner(key)
    if name is not None:
        return name
    if key in sections():
        raise ConfigError(f"{key}: got one value ({origin}), wanted a section with keys such as {_first(key)!r}")
    raise ConfigError(f"unknown key {key!r} ({origin}); the nearest known key is {nearest(key, known_keys())!r}")


def _first(section: str) -> str:
    return next(key for key in key_types() if key.startswith(f"{section}."))


def _value(key: str, node: yaml.Node, origin: str) -> Any:
    kind = key_types().get(key)
    if kind is str and isinstance(node, yaml.ScalarNode):
        return _text(node)
    if kind == list[str] and isinstance(node, yaml.SequenceNode):
        return [_text(item) if isinstance(item, yaml.ScalarNode) else _construct(item) for item in node.value]
    try:
        return _construct(node)
    except (yaml.YAMLError, ValueError) as error:  # ValueError: a date such as 2024-02-30
        raise ConfigError(f"{key}: not a value ({origin}): {' '.join(str(error).split())}") from error


def _text(node: yaml.ScalarNode) -> str:
    """A scalar as written: `off`, `1e-3` and `007` are texts where a text is wanted; null is the empty one."""
    return "" if node.tag == NULL else node.value


def _construct(node: yaml.Node) -> Any:
    return yaml.SafeLoader("").construct_document(node)


def _put(values: dict[str, Any], key: str, value: Any) -> None:
    """Store under the schema's key; `options.a.b` becomes {"a": {"b": value}} merged into what `options` holds."""
    name = owner(key)
    assert name is not None
    for part in reversed(key[len(name) + 1 :].split(".") if key != name else []):
        value = {part: value}
    values[name] = merged(values.get(name), value) if is_free_form(name) else value


def merged(old: Any, new: Any) -> Any:
    """`new` over `old`; mappings are merged entry by entry."""
    if not isinstance(old, dict) or not isinstance(new, dict):
        return new
    return {**old, **{name: merged(old.get(name), value) for name, value in new.items()}}
