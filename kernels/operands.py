"""What every Triton wrapper asks of its tensors: a device that runs kernels, a known dtype, rows that lie as a kernel reads them."""

from __future__ import annotations

import torch
import triton
from torch import Tensor

NAMES = {torch.float32: "fp32", torch.bfloat16: "bf16"}
ALIGNMENT = 16  # bytes; another alignment would be compiled to another kernel


def architecture(name: str, x: Tensor) -> str:
    """ "sm_90" and the like, or "cpu" under TRITON_INTERPRET=1. Raises ValueError for a tensor that no kernel can read."""
    if x.is_cuda:
        major, minor = torch.cuda.get_device_capability(x.device)
        return f"sm_{major}{minor}"
    if x.device.type == "cpu" and triton.knobs.runtime.interpret:
        return "cpu"
    raise ValueError(
        f"{name}: device {x.device} came, a CUDA device wanted (or TRITON_INTERPRET=1, for tests on a CPU)"
    )


def dtype_name(name: str, x: Tensor) -> str:
    """The launch table's name of x's dtype. Raises ValueError for a dtype that the kernels do not multiply in."""
    if x.dtype not in NAMES:
        raise ValueError(f"{name}: dtype {x.dtype} came, torch.float32 or torch.bfloat16 wanted")
    return NAMES[x.dtype]


def check_like(name: str, x: Tensor, shape: tuple[int, ...], like: Tensor, dtypes: tuple[torch.dtype, ...]) -> None:
    """Raise ValueError unless x has this shape, one of these dtypes and the device of `like`."""
    if tuple(x.shape) != shape:
        raise ValueError(f"{name}: shape {list(x.shape)} came, {list(shape)} wanted")
    if x.dtype not in dtypes:
        raise ValueError(f"{name}: dtype {x.dtype} came, {' or '.join(map(str, dtypes))} wanted")
    if x.device != like.device:
        raise ValueError(f"{name}: device {x.device} came, {like.device} wanted")


def check_product(x_name: str, x: Tensor, w_name: str, w: Tensor) -> None:
    """Raise ValueError unless x [..., K] and w [N, K] can be multiplied as they are."""
    if x.ndim < 1 or x.shape[-1] == 0:
        raise ValueError(f"{x_name}: shape {list(x.shape)} came, [..., K] with K >= 1 wanted")
    dtype_name(x_name, x)
    if w.ndim != 2 or w.shape[1] != x.shape[-1] or w.shape[0] == 0:
        raise ValueError(f"{w_name}: shape {list(w.shape)} came, [N, {x.shape[-1]}] with N >= 1 wanted")
    check_like(w_name, w, tuple(w.shape), x, (x.dtype,))


def dense(x: Tensor) -> Tensor:
    """x, or a copy that is contiguous and aligned: a kernel sees every operand in the same form, whatever it was cut from."""
    x = x.contiguous()
    return x if x.data_ptr() % ALIGNMENT == 0 else x.clone()
