"""How a verifier that is no name of ours is written: a function in a file, a function in a package, or an address."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

WANTED = "path/to/file.py:function, package.module:function, package.module.function or an http(s):// address"
_FILE = re.compile(r"(?P<place>.+\.py):(?P<name>[^:/\\]+)")
_DOTTED = re.compile(r"(?P<place>[^\W\d]\w*(?:\.[^\W\d]\w*)*):(?P<name>[^\W\d]\w*(?:\.[^\W\d]\w*)*)")
_LAST_DOT = re.compile(r"(?P<place>[^\W\d]\w*(?:\.[^\W\d]\w*)*)\.(?P<name>[^\W\d]\w*)")


@dataclass(frozen=True, slots=True)
class Spec:
    """A verifier by its place."""

    kind: Literal["file", "module", "url"]
    place: str  # absolute path of the file, dotted name of the module, or the address
    function: str = ""  # its name there

    @property
    def text(self) -> str:
        """As the settings spell it, with an absolute path."""
        return self.place if self.kind == "url" else f"{self.place}:{self.function}"

    @property
    def label(self) -> str:
        """Short, for messages and names of metrics; without an address's credentials and query."""
        if self.kind == "url":
            parts = urlsplit(self.place)
            return (parts.netloc.rpartition("@")[2] + parts.path).rstrip("/")
        return f"{Path(self.place).name if self.kind == 'file' else self.place}:{self.function}"


def parse(text: str) -> Spec | None:
    """The place that `text` spells, or None when it is a plain name. Nothing is looked up."""
    if text.startswith(("http://", "https://")):
        return Spec("url", text)
    if found := _FILE.fullmatch(text):
        return Spec("file", str(Path(found["place"]).expanduser().absolute()), found["name"])
    if text.endswith(".py"):
        return None
    if found := _DOTTED.fullmatch(text) or _LAST_DOT.fullmatch(text):
        return Spec("module", found["place"], found["name"])
    return None


def missing(spec: Spec) -> str:
    """Why nothing can be at that place, as far as a look from outside tells; empty when there may be."""
    if spec.kind == "file" and not Path(spec.place).is_file():
        return f"{spec.text!r}: no such file, wanted {WANTED}"
    if spec.kind == "url":
        try:
            parts = urlsplit(spec.place)
            if parts.hostname and (parts.port is None or parts.port > 0):
                return ""
        except ValueError:  # a port that is no number
            pass
        return f"{spec.place!r}: no host in it, wanted http://host:port/path"
    return ""
