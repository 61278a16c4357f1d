"""Puts tests/ on the path (pytest does it for the folder of a conftest.py), for `from goldens import ...` in every test folder.

Without a GPU Triton's interpreter runs the kernels. Triton reads the variable when it is first imported, which other rooms' imports
do too: so it is set here, before any test module.
"""

import os

import pytest
import torch
from xdist.scheduler import LoadScopeScheduling

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"

from mimosa.trainer.group import free_address, join_group, leave_group


@pytest.fixture(scope="session")
def process_group():
    """A learner's process group of one rank in this process; DeepSpeed takes only one in a process's life."""
    join_group(0, 1, *free_address(), "cpu", 60)
    yield
    leave_group()


class Rooms(LoadScopeScheduling):
    """What pytest-xdist hands to a worker at once. xdist's own groups do nothing under pytest 9.2, which keeps no `_nodeid`."""

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        if file.startswith("tests/cluster/"):
            return "cluster"  # these start Ray actors: they share one cluster and both cores
        return (
            nodeid if file.startswith("tests/kernels/") else file
        )  # tests of a file share fixtures; kernels have none


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    return Rooms(config, log)
