"""Puts tests/ on the path (pytest does it for the folder of a conftest.py), for `from goldens import ...` in every test folder.

Without a GPU Triton's interpreter runs the kernels. Triton reads the variable when it is first imported, which other rooms' imports
do too: so it is set here, before any test module.
"""

import os

import numpy as np
import pytest
import torch

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


@pytest.hookimpl(tryfirst=True)  # before xdist reads the marks
def pytest_collection_modifyitems(items):
    """Tests that start Ray actors share one cluster and both cores: they stay together on one of the two workers."""
    for item in items:
        if item.path.parent.name == "cluster":
            item.add_marker(pytest.mark.xdist_group("ray"))
