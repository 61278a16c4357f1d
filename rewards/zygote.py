"""A warm Python that forks one candidate after another, on request of the judge.

It never sees code, tests or values. A request is the limits, with the descriptors that the candidate gets; a second message kills
that candidate. Each candidate's end is reported with its wait status, after which nothing of it is left: it could start no process.
"""

from __future__ import annotations

import _sitebuiltins
import builtins
import contextlib
import fcntl
import gc
import json
import os
import select
import signal
import socket
import sys

from .candidate import serve
from .confinement import Confinement, confine, die_with, prepare
from .limits import Limits
from .wire import Channel

LINK = 3  # the candidate's descriptor of its link to the judge
KILL = b"kill"
# Imported before the fork: each would cost every candidate that uses it milliseconds.
_WARM = (
    "abc", "array", "bisect", "bz2", "cmath", "collections", "collections.abc", "copy", "ctypes", "dataclasses", "datetime",
    "decimal", "enum", "fractions", "functools", "hashlib", "heapq", "inspect", "io", "itertools", "json", "lzma", "math",
    "numbers", "operator", "queue", "random", "re", "statistics", "string", "textwrap", "time", "traceback", "typing",
    "unicodedata", "zlib",
)  # fmt: skip


def main() -> None:
    """argv: descriptor of the link to the judge, slot number, tier, pid of the starting process (0: in another namespace)."""
    inherited, slot, tier, parent = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], int(sys.argv[4])
    if parent:
        die_with(parent)
    os.environ.clear()
    control = socket.socket(fileno=fcntl.fcntl(inherited, fcntl.F_DUPFD_CLOEXEC, 10))
    os.dup2(0, LINK)  # taken, so that nothing that is made later has this number
    for name in _WARM:
        with contextlib.suppress(ImportError):  # a Python may be built without some
            __import__(name)
    sys.path[:] = [path for path in sys.path if path.endswith("lib-dynload") or path == os.path.dirname(os.__file__)]
    builtins.exit = builtins.quit = _sitebuiltins.Quitter("exit", "Ctrl-D")  # else made by `site`, which -S leaves out
    try:
        made = prepare(slot, tier)
    except OSError as error:
        control.send(json.dumps({"failed": str(error)}).encode())
        return
    gc.collect()
    gc.freeze()  # the collector would touch, and so copy, every page after a fork
    control.send(json.dumps({"ready": True, "uid": made.uid, "chroot": made.packages is not None}).encode())
    while True:
        request, descriptors, _, _ = socket.recv_fds(control, 4096, 3)
        if not request:
            return
        if request != KILL:
            _host(control, made, Limits(**json.loads(request)), descriptors)


def _host(control: socket.socket, made: Confinement, limits: Limits, descriptors: list[int]) -> None:
    """One candidate from fork to report."""
    parent = os.getpid()
    child = os.fork()
    if child == 0:
        _become(made, limits, descriptors, parent)
    watched = os.pidfd_open(child)
    for descriptor in descriptors:
        os.close(descriptor)
    poll = select.poll()
    poll.register(watched, select.POLLIN)
    poll.register(control, select.POLLIN)
    while not any(descriptor == watched for descriptor, _ in poll.poll()):
        message = control.recv(4096)
        signal.pidfd_send_signal(watched, signal.SIGKILL)
        if not message:
            break
    _, status = os.waitpid(child, 0)
    os.close(watched)
    control.send(json.dumps({"status": os.waitstatus_to_exitcode(status)}).encode())


def _become(made: Confinement, limits: Limits, descriptors: list[int], parent: int) -> None:
    """The candidate's whole life; never returns. descriptors: its link to the judge, then stdin and stdout if wanted."""
    try:
        os.dup2(0, 2)  # /dev/null, in place of the file that takes this process's own complaints
        for place, descriptor in enumerate(descriptors[1:]):
            os.dup2(descriptor, place)
        os.dup2(descriptors[0], LINK)
        channel = Channel(socket.socket(fileno=LINK), limits.frame)
        try:
            confine(made, limits, parent)
        except (OSError, ValueError) as error:
            channel.send({"failed": f"{type(error).__name__}: {error}"})
            os._exit(1)
        channel.send({"ready": True})
        serve(channel)
    finally:
        os._exit(1)
