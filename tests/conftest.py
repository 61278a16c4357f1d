"""Puts tests/ on the path (pytest does it for the folder of a conftest.py), for `from goldens import ...` in every test folder.

Without a GPU Triton's interpreter runs the kernels. Triton reads the variable when it is first imported, which other rooms' imports
do too: so it is set here, before any test module.
"""

import os

import torch

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"
