"""Settings of a run: a preset or a file, then the command line, merged into a typed `Config` or refused in one line."""

from __future__ import annotations

import re
from dataclasses import asdict
from typing import Any

import yaml
from omegaconf import MISSING, DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from .errors import ConfigError
from .keys import WANTED, is_free_form, key_types, known_keys
from .layers import Layer, merged, preset_names, read_overrides, read_preset_or_file
from .rules import broken, require_data, require_whole_softmax, setting
from .schema import Config

__all__ = ["ConfigError", "known_keys", "load", "preset_names", "require_data", "require_whole_softmax", "to_yaml"]

SOURCES = ("data.train", "data.eval")
KINDS = ("task", "path", "hub")
COMPANIONS = {"task": ("options",), "path": (), "hub": ("subset", "split")}  # mean something for their kind alone


def load(preset_or_file: str | None, overrides: list[str]) -> Config:
    """The settings of a run.

    `preset_or_file` is the name of a preset (configs/<name>.yaml) or the path of a YAML file, which may say
    `base: <preset>` to build on another; None starts from the defaults. `overrides` are `key=value` words with
    dotted keys and YAML values; where a text is wanted the value is taken as typed. Raises ConfigError, one line,
    for an unknown key, an ill-typed or impossible value, an unknown preset.
    """
    layers = read_preset_or_file(preset_or_file) if preset_or_file is not None else []
    tree = OmegaConf.structured(Config)
    origins: dict[str, str] = {}
    for layer in [*layers, read_overrides(overrides)]:
        _forget_other_sources(tree, layer, origins)
        for key, value in layer.values.items():
            _set(tree, key, value, layer.origin)
            origins[key] = layer.origin
    config = OmegaConf.to_object(tree)
    assert isinstance(config, Config)
    for complaint in broken(config, origins):
        raise ConfigError(complaint)
    return config


def to_yaml(config: Config) -> str:
    """YAML that `load` reads back into an equal Config."""
    return yaml.dump(asdict(config), Dumper=yaml.SafeDumper, sort_keys=False, allow_unicode=True, width=120)


def _set(tree: DictConfig, key: str, value: Any, origin: str) -> None:
    wanted = WANTED[key_types()[key]]
    if is_free_form(key):
        value = merged(OmegaConf.to_container(OmegaConf.select(tree, key), resolve=True), value)
    refusal = f"{key}: got {_short(value)} ({origin}), wanted {wanted}"
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if key_types()[key] is bool and number and value not in (0, 1):  # OmegaConf takes any number for a bool
        raise ConfigError(refusal)
    if MISSING in _texts(value):
        raise ConfigError(f"{refusal} without {MISSING}, OmegaConf's mark of a missing value")
    try:
        OmegaConf.update(tree, key, _literal(value), merge=False)
    except OmegaConfBaseException as error:
        raise ConfigError(refusal) from error


def _literal(value: Any) -> Any:
    """OmegaConf would take `${` in a text for a reference; "Solve ${prompt}$." is to stay what it is."""
    if isinstance(value, str):
        return re.sub(r"(\\*)\$\{", r"\1\1\\${", value)
    if isinstance(value, list):
        return [_literal(item) for item in value]
    if isinstance(value, dict):
        return {name: _literal(item) for name, item in value.items()}
    return value


def _texts(value: Any) -> list[str]:
    """All texts in a value."""
    inside = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [value] if isinstance(value, str) else [text for item in inside for text in _texts(item)]


def _short(value: Any) -> str:
    text = "nothing" if value is None else repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _forget_other_sources(tree: DictConfig, layer: Layer, origins: dict[str, str]) -> None:
    """A layer that names a source of rows replaces the one below it, with what belonged to that one alone."""
    for section in SOURCES:
        named = [kind for kind in KINDS if layer.values.get(f"{section}.{kind}")]
        if len(named) > 1:
            keys = " and ".join(f"{section}.{kind}" for kind in named)
            raise ConfigError(f"{keys} are both set ({layer.origin}), wanted one source")
        for kind in named:
            same = OmegaConf.select(tree, f"{section}.{kind}") == layer.values[f"{section}.{kind}"]
            others = [other for other in KINDS if other != kind]
            stale = others + [name for other in others for name in COMPANIONS[other]]
            for name in stale if same else [*stale, *COMPANIONS[kind]]:
                key = f"{section}.{name}"
                OmegaConf.update(tree, key, setting(Config(), key), merge=False)
                origins.pop(key, None)
