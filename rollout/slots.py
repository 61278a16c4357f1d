"""Which state slots are in use, and how many there can be."""

from __future__ import annotations

import heapq
import os
from collections.abc import Callable
from pathlib import Path

import torch

from ..policy.slots import PolicySlots

MOST_SLOTS = {
    "cpu": 256,
    "cuda": 1024,
}  # of an automatic number: more rows gain nothing once the weights are read for many
CGROUP = Path("/sys/fs/cgroup")


class SlotPool:
    """The numbers of free slots; the lowest are given out first, so that slots in use stay close to a run."""

    def __init__(self, capacity: int):
        self.capacity = capacity
        self.reset()

    def reset(self) -> None:
        self._free = list(range(self.capacity))

    @property
    def free(self) -> int:
        return len(self._free)

    def take(self) -> int:
        return heapq.heappop(self._free)

    def lowest(self) -> int | None:
        """The lowest free slot, still free."""
        return self._free[0] if self._free else None

    def release(self, slot: int) -> None:
        heapq.heappush(self._free, slot)

    def free_below(self, slot: int) -> int:
        """How many free slots have a lower number."""
        return sum(free < slot for free in self._free)


def make_slots(
    make: Callable[[int], PolicySlots], wanted: int, device: torch.device, memory_share: float
) -> PolicySlots:
    """`wanted` slots, or with 0 as many as `memory_share` of the free memory holds.

    make(capacity) allocates. Raises ValueError when the number wanted does not fit into the memory that is free.
    """
    size = make(1).bytes_per_slot
    free = free_memory(device)
    fit = max(0, int(free // size) - 1)  # one more row than there are slots may be nobody's
    if wanted > fit:
        raise ValueError(
            f"rollout.slots: got {wanted}, wanted at most {fit}: a slot takes {size / 2**20:.2f} MiB and "
            f"{free / 2**30:.2f} GiB are free on {device}"
        )
    automatic = min(int(free * memory_share // size), MOST_SLOTS[device.type])
    if not wanted and automatic < 1:
        raise ValueError(
            f"rollout.slots: got 0 (automatic), but rollout.memory_share={memory_share} of {free / 2**30:.2f} GiB free on "
            f"{device} holds no slot of {size / 2**20:.2f} MiB"
        )
    return make(wanted or automatic)


def free_memory(device: torch.device) -> int:
    """Bytes that can still be allocated: on a GPU what its driver and torch's own cache have left, on a CPU what the machine has."""
    if device.type == "cuda":
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0]) + cached
    host = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    for line in Path("/proc/meminfo").read_text().splitlines() if Path("/proc/meminfo").exists() else []:
        if line.startswith("MemAvailable:"):
            host = int(line.split()[1]) << 10
    return min(host, _container_memory())


def _container_memory() -> int:
    """What the control group of this process has left; without a limit more than any machine has."""
    limit, used = CGROUP / "memory.max", CGROUP / "memory.current"
    if not (limit.exists() and used.exists()) or limit.read_text().strip() == "max":
        return 1 << 62
    return max(0, int(limit.read_text()) - int(used.read_text()))
