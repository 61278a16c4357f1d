"""Puts tests/ on the path (pytest does it for the folder of a conftest.py), for `from goldens import ...` in every test folder.

Without a GPU Triton's interpreter runs the kernels. Triton reads the variable when it is first imported, which other rooms' imports
do too: so it is set here, before any test module.
"""

import os

import numpy as np
import pytest
import torch
from xdist.scheduler import LoadScopeScheduling

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"
    from triton.runtime.interpreter import InterpreterBuilder, TensorHandle

from mimosa.trainer.group import free_address, join_group, leave_group


def dot(self, a, b, d, input_precision, max_num_imprecise_acc):
    """The interpreter's product as a GPU's instructions make it: every entry sums over K in one order, whatever stands beside it.

    numpy's matmul picks another order for another shape. bfloat16, which the interpreter holds as bits, is widened first.
    """
    a, b = (wide(x) for x in (a, b))
    total = d.data.copy()
    for k in range(a.shape[1]):
        total += a[:, k : k + 1] * b[k : k + 1]
    return TensorHandle(total, d.dtype.scalar)


def wide(x):
    return (x.data.astype(np.uint32) << 16).view(np.float32) if x.data.dtype == np.uint16 else x.data


if not torch.cuda.is_available():
    InterpreterBuilder.create_dot = dot


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
