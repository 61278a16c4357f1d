"""Landlock: a process gives up every file it is not granted, every TCP port and, on newer kernels, signals to others.

Needs Linux 5.13 with Landlock switched on, and no privilege. Numbers and bits: linux/landlock.h.
"""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Iterable

_CREATE, _ADD_RULE, _RESTRICT = 444, 445, 446  # the same on every architecture
_VERSION_FLAG, _PATH_BENEATH = 1, 1
_READ_FILE, _READ_DIR = 1 << 2, 1 << 3
_FOREIGN = ("site-packages", "dist-packages")  # installed packages are no part of the library
_LIBC = ctypes.CDLL(None, use_errno=True)


def version() -> int:
    """The ABI that the kernel offers, 1 or more. Raises OSError where there is none."""
    return _call(_CREATE, None, 0, _VERSION_FLAG)


def ruleset(library: str) -> int:
    """A descriptor of the rules: read the files of the standard library in `library`, and nothing else. Raises OSError."""
    rules = _new(version())
    _grant(rules, library, _READ_DIR)
    for name in sorted(os.listdir(library)):
        if name not in _FOREIGN:
            path = os.path.join(library, name)
            _grant(rules, path, _READ_FILE | _READ_DIR if os.path.isdir(path) else _READ_FILE)
    return rules


def restrict(rules: int) -> None:
    """Binds this thread and all it will start to the rules; needs no_new_privs. Raises OSError."""
    _call(_RESTRICT, rules, 0)


def _new(abi: int) -> int:
    files = (1 << 13) - 1 | (abi >= 2) << 13 | (abi >= 3) << 14 | (abi >= 5) << 15
    fields: Iterable[int] = (files,)
    if abi >= 4:
        fields = (files, 0b11)  # bind and connect of TCP
    if abi >= 6:
        fields = (files, 0b11, 0b11)  # abstract sockets and signals outside
    attributes = struct.pack(f"={len(tuple(fields))}Q", *fields)
    return _call(_CREATE, attributes, len(attributes), 0)


def _grant(rules: int, path: str, access: int) -> None:
    target = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        _call(_ADD_RULE, rules, _PATH_BENEATH, struct.pack("=Qi", access, target), 0)
    finally:
        os.close(target)


def _call(number: int, *arguments: int | bytes | None) -> int:
    words = [ctypes.c_long(one) if isinstance(one, int) else ctypes.c_char_p(one) for one in arguments]
    result = _LIBC.syscall(ctypes.c_long(number), *words)
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"Landlock: {os.strerror(code)}")
    return result
