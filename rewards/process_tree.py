"""A process with all that it started: found under /proc, whatever session or group they moved to, and ended."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import time

_PR_SET_CHILD_SUBREAPER = 36
_ROUNDS = 50  # of looking and killing; each ends all that was there, so that only a fork bomb sees a second


def adopt_orphans() -> None:
    """Daemons below this process become its children instead of init's, so that they can be found."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def reap() -> None:
    """Waits for children of this process that have ended, adopted ones among them."""
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            continue


def end(root: int) -> None:
    """Ends `root` and its descendants, this process excepted; who started `root` waits for it."""
    _signal(root, signal.SIGSTOP)  # alive but still, it keeps its orphans and starts no more
    end_children(root)
    _signal(root, signal.SIGKILL)


def end_children(root: int) -> None:
    """Ends the descendants of `root`, this process excepted."""
    for attempt in range(_ROUNDS):
        below = descendants(root)
        if not below:
            return
        for one in below:
            _signal(one, signal.SIGKILL)
        time.sleep(0.001 * attempt)


def descendants(root: int) -> list[int]:
    """Processes below `root` that still run, without this one."""
    parents: dict[int, int] = {}
    running: set[int] = set()
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        try:
            with open(f"/proc/{name}/stat", encoding="utf-8", errors="replace") as file:
                state, parent = file.read().rpartition(")")[2].split()[:2]
        except (OSError, ValueError):  # gone meanwhile
            continue
        parents[int(name)] = int(parent)
        if state not in "ZX":
            running.add(int(name))
    return [one for one in running if one not in (root, os.getpid()) and _is_below(one, root, parents)]


def _is_below(process: int, root: int, parents: dict[int, int]) -> bool:
    for _ in range(len(parents)):
        if process == root:
            return True
        if process not in parents:
            return False
        process = parents[process]
    return False


def _signal(process: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(process, number)


def end_group(leader: int) -> None:
    """Ends what is left of a process group whose leader may be gone."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(leader, signal.SIGKILL)
