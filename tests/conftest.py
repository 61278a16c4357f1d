"""Puts tests/ on the path (pytest does it for the folder of a conftest.py), for `from goldens import ...` in every test folder.

Without a GPU Triton's interpreter runs the kernels. Triton reads the variable when it is first imported, which other rooms' imports
do too: so it is set here, before any test module.
"""

import os

import pytest
import torch

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"

from mimosa.trainer.group import free_address, join_group, leave_group


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
