"""The sandbox as the judge sees it: a slot with a warm zygote, and one session a candidate.

Tiers, best first. bubblewrap: the zygote stands in namespaces of its own, and all of the next tier besides. landlock: Landlock,
seccomp, limits and, for root, an own uid and root folder; works under Docker's default profile. Neither is trusted by name: a tier
counts when the attacks of self_test.py fail in it. unsafe: limits only, by explicit wish.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import IO, Any

from . import bubblewrap
from .limits import Limits
from .verifier import one_line
from .wire import BadFrame, Channel
from .zygote import KILL

TIERS = ("bubblewrap", "landlock")
START_SECONDS = 20.0  # for a zygote's imports, on a busy machine
_FORK_SECONDS = 10.0  # for one candidate to stand confined
_END_SECONDS = 3.0  # for one candidate to be gone after a kill
_BOOT = (
    "import sys, types; package = types.ModuleType('mimosa'); package.__path__ = [sys.argv.pop(1)]; "
    "sys.modules['mimosa'] = package; from mimosa.rewards.zygote import main; main()"
)


class SandboxFailed(Exception):
    """The sandbox did not start or was lost: says nothing of the candidate."""


class Slot:
    """One zygote and at most one candidate at a time. number: names the uid that candidates get when root starts them."""

    def __init__(self, tier: str, number: int) -> None:
        self.tier, self.number = tier, number
        self.about: dict[str, Any] = {}  # what the zygote said of itself
        self._process: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None
        self._errors: IO[bytes] | None = None

    def ensure(self) -> None:
        """Starts the zygote unless it runs. Raises SandboxFailed."""
        if self._process is not None and self._process.poll() is not None:
            self.close()
        if self._process is None:
            self._start()

    def session(self, limits: Limits, stdin: bytes | None = None) -> Session:
        """A confined process that waits for its code; with `stdin`, its stdout is kept. Raises SandboxFailed."""
        self.ensure()
        assert self._control is not None
        return Session(self, self._control, limits, stdin)

    def close(self) -> None:
        """Ends the zygote, and with it a candidate that may still run."""
        process, control, errors = self._process, self._control, self._errors
        self._process = self._control = self._errors = None
        if process is not None:
            process.kill()
            process.wait(timeout=10)
        for one in (control, errors):
            if one is not None:
                one.close()

    def lost(self, what: str) -> SandboxFailed:
        """Ends the zygote and says what the matter was, with the last it said."""
        words = ""
        if self._errors is not None:
            self._errors.seek(0)
            words = self._errors.read()[-300:].decode(errors="replace").strip().rpartition("\n")[2]
        self.close()
        return SandboxFailed(one_line(f"{self.tier}: {what} {words}".strip()))

    def _start(self) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._control, self._errors = ours, tempfile.TemporaryFile()  # noqa: SIM115 - closed by close
        try:
            with theirs:
                self._process = subprocess.Popen(
                    self._command(theirs.fileno()), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                    stderr=self._errors, pass_fds=(theirs.fileno(),), env=_environment(), start_new_session=True,
                )  # fmt: skip
        except OSError as error:
            raise self.lost(f"the zygote did not start: {error}") from error
        self.about = self.report(time.monotonic() + START_SECONDS)
        if "failed" in self.about:
            raise self.lost(f"the zygote refused: {self.about['failed']}")

    def _command(self, control: int) -> list[str]:
        python = os.path.realpath(getattr(sys, "_base_executable", "") or sys.executable)
        root, parent, before = str(Path(__file__).parents[1]), os.getpid(), []
        if self.tier == "bubblewrap":
            bwrap = bubblewrap.find()
            if bwrap is None:
                raise FileNotFoundError("bwrap is not installed")
            root, parent, before = bubblewrap.PACKAGE, 0, bubblewrap.command(bwrap, python)
        words = (control, self.number, self.tier, parent)
        return [
            *before,
            python,
            "-s",
            "-S",
            "-P",
            "-B",
            "-X",
            "utf8",
            "-c",
            _BOOT,
            root,
            *(str(word) for word in words),
        ]

    def report(self, deadline: float) -> dict[str, Any]:
        """The zygote's next message. Raises SandboxFailed."""
        assert self._control is not None
        poll = select.poll()
        poll.register(self._control, select.POLLIN)
        if not poll.poll(max(0.0, 1000 * (deadline - time.monotonic()))):
            raise self.lost("no answer in time from the zygote")
        message = self._control.recv(4096)
        if not message:
            raise self.lost("the zygote is gone")
        return json.loads(message)


class Session:
    """One candidate's process, from the fork to its end. Use as a context: leaving it ends the process."""

    def __init__(self, slot: Slot, control: socket.socket, limits: Limits, stdin: bytes | None) -> None:
        self._slot, self._control = slot, control
        self._status: int | None = None
        self.stdout: int | None = None
        ours, theirs = socket.socketpair()
        self.channel = Channel(ours, limits.frame)
        descriptors = [theirs.fileno()]
        with theirs, contextlib.ExitStack() as opened:
            if stdin is not None:
                descriptors += self._streams(stdin, opened)
            try:
                socket.send_fds(control, [json.dumps(limits.to_dict()).encode()], descriptors)
            except OSError as error:
                raise slot.lost(f"the zygote is gone: {error}") from error
        self._stand()

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def end(self, deadline: float = 0.0) -> int:
        """The exit status, negative for a signal; kills the process if it still runs at the deadline.

        Raises SandboxFailed when the zygote is gone.
        """
        if self._status is None:
            self._release()
            self._status = self._ended(deadline)
        return self._status

    def ended_by(self, deadline: float) -> bool:
        """Whether the process ended before the deadline, without killing it."""
        poll = select.poll()
        poll.register(self._control, select.POLLIN)
        return bool(poll.poll(max(0.0, 1000 * (deadline - time.monotonic()))))

    def _ended(self, deadline: float) -> int:
        if not self.ended_by(deadline):
            with contextlib.suppress(OSError):
                self._control.send(KILL)
        return int(self._slot.report(time.monotonic() + _END_SECONDS)["status"])

    def _streams(self, stdin: bytes, opened: contextlib.ExitStack) -> list[int]:
        """Descriptors for the other side: a read-only view of the input, and a pipe whose other end is kept."""
        writing = os.memfd_create("stdin", os.MFD_CLOEXEC)
        opened.callback(os.close, writing)
        with open(writing, "wb", closefd=False) as file:
            file.write(stdin)
        reading = os.open(f"/proc/self/fd/{writing}", os.O_RDONLY | os.O_CLOEXEC)
        opened.callback(os.close, reading)
        self.stdout, output = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        os.set_blocking(output, True)
        opened.callback(os.close, output)
        return [reading, output]

    def _stand(self) -> None:
        """Waits until the process says that it is confined; no foreign code is in it before."""
        try:
            said = self.channel.receive(time.monotonic() + _FORK_SECONDS)
        except (OSError, EOFError, BadFrame) as error:
            self._release()
            raise self._slot.lost(f"no candidate process: {error}") from error
        if "failed" in said:
            self._release()
            raise self._slot.lost(f"the candidate could not be confined: {said['failed']}")

    def _release(self) -> None:
        self.channel.link.close()
        if self.stdout is not None:
            os.close(self.stdout)
            self.stdout = None


def _environment() -> dict[str, str]:
    """Where a Python finds its own shared library, and one order of sets for every run; forgotten before the first fork."""
    kept = {name: os.environ[name] for name in ("LD_LIBRARY_PATH",) if name in os.environ}
    return {"PYTHONHASHSEED": "0"} | kept


def fault_of(status: int) -> str:
    """What an exit status says of a candidate that was not killed by the judge."""
    if status == -signal.SIGXCPU or status == -signal.SIGKILL:
        return "ran into the limit of processor time or memory"
    if status < 0:
        name = signal.Signals(-status).name if -status in set(signal.Signals) else str(-status)
        return f"died of {name}"
    return f"ended its process (exit code {status})"
