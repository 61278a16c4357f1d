"""How a forked process becomes a candidate: it gives up descriptors, files, its uid, capabilities and system calls, in this order.

Runs after the fork and before any foreign code; each step that fails raises OSError, and then no foreign code runs at all.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import struct
import sys
import sysconfig
from dataclasses import dataclass
from types import ModuleType

from . import landlock, limits, seccomp

_PR_SET_PDEATHSIG, _PR_SET_NO_NEW_PRIVS = 1, 38
_CAP_KILL, _CAP_SETGID, _CAP_SETUID, _CAP_SYS_CHROOT = 5, 6, 7, 18
_LIBC = ctypes.CDLL(None, use_errno=True)
_FIRST_UID, _UIDS = 61000, 4000  # above the ranges that distributions hand out, within the 16 bits that containers map


@dataclass(frozen=True, slots=True)
class Confinement:
    """What is made once, before the forks."""

    library: str  # the standard library's folder
    rules: int | None  # Landlock's, None: the tier does without
    filter: bytes | None  # of system calls
    uid: int | None  # of its own, None: keeps the caller's
    packages: (
        tuple[tuple[ModuleType, list[str]], ...] | None
    )  # with their paths under the new root; None: keeps the root
    unsafe: bool  # failing steps are passed over


def prepare(slot: int, tier: str) -> Confinement:
    """For the zygote of slot number `slot`. Raises OSError where the tier cannot do without what is missing."""
    library = sysconfig.get_path("stdlib")
    owned = may_change_user()
    rules: int | None = None
    program: bytes | None = None
    with contextlib.suppress(OSError) if tier != "landlock" else contextlib.nullcontext():
        rules = landlock.ruleset(library)
    with contextlib.suppress(OSError) if tier == "unsafe" else contextlib.nullcontext():
        program = seccomp.program()
    return Confinement(
        library, rules, program, _FIRST_UID + slot % _UIDS if owned else None,
        _packages(library) if owned and _capable(_CAP_SYS_CHROOT) else None, tier == "unsafe",
    )  # fmt: skip


def _packages(library: str) -> tuple[tuple[ModuleType, list[str]], ...]:
    """Loaded packages of the library. Looked for before the forks: touching every module would copy its pages."""
    found = []
    for module in list(sys.modules.values()):
        paths = list(getattr(module, "__path__", ()))
        if any(path.startswith(library) for path in paths):
            found.append((module, [path.removeprefix(library) for path in paths]))
    return tuple(found)


def confine(made: Confinement, bounds: limits.Limits, parent: int) -> None:
    """Binds this process, a child of `parent`, for good. Descriptors above 3 are closed, Landlock's after its use."""
    keep = -1 if made.rules is None else made.rules
    os.closerange(4, max(4, keep))
    os.closerange(max(4, keep + 1), 1 << 20)
    os.umask(0o077)
    os.setsid()
    limits.apply(bounds)
    for step in (lambda: _change_root(made), lambda: _change_user(made), lambda: _give_up(made)):
        with contextlib.suppress(OSError) if made.unsafe else contextlib.nullcontext():
            step()
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)  # a change of uid clears it, so it comes after
    if os.getppid() != parent:  # which had died before the request
        os._exit(1)
    if made.rules is not None:
        landlock.restrict(made.rules)
        os.close(made.rules)
    if made.filter is not None:
        seccomp.install(made.filter)


def _change_root(made: Confinement) -> None:
    """The library becomes the whole of the file system: its own uid may be barred from folders on the way to it."""
    if made.packages is None:
        os.chdir("/")
        return
    os.chroot(made.library)
    os.chdir("/")
    for module, paths in made.packages:
        module.__path__ = paths  # type: ignore[assignment]
    sys.path[:] = [path.removeprefix(made.library) or "/" for path in sys.path if path.startswith(made.library)]
    sys.path_importer_cache.clear()


def _change_user(made: Confinement) -> None:
    if made.uid is None:
        return
    os.setgroups([])
    os.setresgid(made.uid, made.uid, made.uid)
    os.setresuid(made.uid, made.uid, made.uid)


def _give_up(made: Confinement) -> None:
    """No capability is left, and none can come back."""
    header = struct.pack("=Ii", 0x20080522, 0)  # version 3
    if _LIBC.capset(header, bytes(24)):
        raise OSError(ctypes.get_errno(), "capset failed")
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)


def may_change_user() -> bool:
    """Whether this process can give a child a uid of its own, and end it then: root, unless a container took that away."""
    return all(_capable(number) for number in (_CAP_SETUID, _CAP_SETGID, _CAP_KILL))


def _capable(number: int) -> bool:
    header = struct.pack("=Ii", 0x20080522, 0)
    data = ctypes.create_string_buffer(24)
    if _LIBC.capget(header, data):
        raise OSError(ctypes.get_errno(), "capget failed")
    low, _, _, high, _, _ = struct.unpack("=6I", data.raw)
    return bool((low | high << 32) >> number & 1)


def _prctl(option: int, value: int) -> None:
    if _LIBC.prctl(option, value, 0, 0, 0):
        raise OSError(ctypes.get_errno(), f"prctl {option} failed")


def die_with(parent: int, by: signal.Signals = signal.SIGKILL) -> None:
    """Ends this process as soon as `parent`, which started it, is gone."""
    _prctl(_PR_SET_PDEATHSIG, by)
    if os.getppid() != parent:
        os._exit(1)
