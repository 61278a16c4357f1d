"""What a candidate program may use before it is ended and scores 0."""

from __future__ import annotations

import math
import resource
from dataclasses import asdict, dataclass
from typing import Any

MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Limits:
    """Of one candidate process. It may write no file and start no process at all, so those have no number here."""

    wall: float = 5.0  # seconds, for all calls or all input/output cases of one judgement
    memory: int = 1024 * MIB  # bytes of address space: it is one process, so this bounds the whole job
    output: int = 4 * MIB  # bytes on stdout of one input/output case
    frame: int = 8 * MIB  # bytes of one returned value on the wire
    files: int = 64  # open descriptors
    threads: int = 64  # binds only when the candidate has a uid of its own

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @property
    def cpu(self) -> int:
        """Seconds of processor time, over all threads; the kernel counts whole ones."""
        return math.ceil(self.wall) + 1


def apply(limits: Limits) -> None:
    """Binds this process; no way back, since the hard limits are lowered too. Raises OSError or ValueError."""
    for kind, soft, hard in (
        (resource.RLIMIT_AS, limits.memory, limits.memory),
        (resource.RLIMIT_CPU, limits.cpu, limits.cpu + 1),  # first SIGXCPU, then SIGKILL
        (resource.RLIMIT_NOFILE, limits.files, limits.files),
        (resource.RLIMIT_NPROC, limits.threads, limits.threads),
        (resource.RLIMIT_FSIZE, 0, 0),
        (resource.RLIMIT_CORE, 0, 0),
        (resource.RLIMIT_MEMLOCK, 0, 0),
        (resource.RLIMIT_MSGQUEUE, 0, 0),
    ):
        resource.setrlimit(kind, (soft, hard))
