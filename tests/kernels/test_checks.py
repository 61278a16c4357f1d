"""Every wrong argument is a ValueError of one line that starts with the argument's name."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from recurrence import example, example_state, token

from mimosa.kernels.dispatch import mamba3_scan, mamba3_step


def scan(changes: dict[str, Any], **sizes: Any) -> Any:
    arguments = example(0, **({"T": 5, "H": 4, "G": 2, "N": 6, "P": 3, "R": 2, "S": 3} | sizes), dtype=torch.float32)
    return mamba3_scan(**(arguments | {"pairing": "half"} | changes))


def refused(name: str, part: str, call: Any, *args: Any, **kwargs: Any) -> None:
    with pytest.raises(ValueError) as caught:
        call(*args, **kwargs)
    message = str(caught.value)
    assert message.startswith(f"{name}: ") and part in message and "wanted" in message and "\n" not in message, message


WRONG: list[tuple[str, dict[str, Any], str]] = [
    ("v", {"v": torch.zeros(1, 5, 4)}, "[1, 5, 4] came, [B, T, H, P]"),
    ("v", {"v": torch.zeros(1, 0, 4, 3)}, "[1, 0, 4, 3] came"),
    ("q", {"q": torch.zeros(1, 5, 2, 6)}, "[B, T, R, G, N]"),
    ("k", {"k": torch.zeros(1, 5, 2, 1, 6)}, "[1, 5, 2, 1, 6] came, [B, T, R, G, N] = [1, 5, 2, 2, 6]"),
    ("z", {"z": torch.zeros(1, 5, 4, 2)}, "[1, 5, 4, 3]"),
    ("adt", {"adt": torch.zeros(1, 5, 4)}, "[B, H, T] = [1, 4, 5]"),
    ("dt", {"dt": torch.zeros(1, 4, 6)}, "[1, 4, 6] came"),
    ("trap", {"trap": torch.zeros(4, 5)}, "[1, 4, 5]"),
    ("angles", {"angles": torch.zeros(1, 5, 2, 3)}, "[1, 5, 4, 3] or [1, 5, 1, 3]"),
    ("angles", {"angles": torch.zeros(1, 5, 4, 4)}, "S = 4 came, at most N/2 = 3"),
    ("q_bias", {"q_bias": torch.zeros(4, 6)}, "[H, R, N] = [4, 2, 6]"),
    ("k_bias", {"k_bias": torch.zeros(4, 1, 6)}, "[4, 2, 6]"),
    ("D", {"D": torch.zeros(3)}, "[H] = [4]"),
    ("mimo_x", {"mimo_x": torch.zeros(4, 3, 3)}, "[H, R, P] = [4, 2, 3]"),
    ("mimo_z", {"mimo_z": None}, "given together"),
    ("norm_weight", {"norm_weight": torch.zeros(4)}, "[H * P] = [12]"),
    ("pairing", {"pairing": "halves"}, "'halves' came"),
    ("chunk_size", {"chunk_size": 0}, "0 came"),
    ("chunk_size", {"chunk_size": 2.5}, "2.5 came"),
    ("backend", {"backend": "cuda"}, "'cuda' came, which is not available; one of auto, reference, triton"),
    ("dt", {"dt": torch.ones(1, 4, 5, dtype=torch.int64)}, "torch.int64 came"),
    ("z", {"z": torch.zeros(1, 5, 4, 3, dtype=torch.float64)}, "float64 throughout or nowhere"),
    ("z", {"z": torch.zeros(1, 5, 4, 3, device="meta")}, "on meta"),
    ("D", {"D": 1.0}, "float came, a tensor"),
    ("cu_seqlens", {"cu_seqlens": [0, 5]}, "list came"),
    ("cu_seqlens", {"cu_seqlens": torch.tensor([0.0, 5.0])}, "torch.float32 came"),
    ("cu_seqlens", {"cu_seqlens": torch.tensor([[0, 5]])}, "[1, 2] came"),
    ("cu_seqlens", {"cu_seqlens": torch.tensor([0])}, "[1] came"),
    ("cu_seqlens", {"cu_seqlens": torch.tensor([1, 5])}, "starts with 1"),
    ("cu_seqlens", {"cu_seqlens": torch.tensor([0, 4])}, "ends with 4, wanted T = 5"),
    ("cu_seqlens", {"cu_seqlens": torch.tensor([0, 2, 2, 5])}, "sequence 1 has no tokens (2 to 2)"),
    ("cu_seqlens", {"cu_seqlens": torch.tensor([0, 4, 3, 5])}, "sequence 1 ends before it starts (4 to 3)"),
]


@pytest.mark.parametrize(("name", "changes", "part"), WRONG, ids=[f"{name}-{part[:20]}" for name, _, part in WRONG])
def test_wrong_scan_arguments(name: str, changes: dict[str, Any], part: str) -> None:
    refused(name, part, scan, changes)


def test_sizes_that_do_not_fit_each_other() -> None:
    refused("q", "3 groups came, a divisor of the 4 heads", scan, {}, G=3)
    refused("q", "N = 5 came", scan, {}, N=5, S=2)
    refused("cu_seqlens", "B = 2", scan, {"cu_seqlens": torch.tensor([0, 5])}, B=2)
    refused("q_bias", "[H, N] = [4, 6] or [4, 1, 6]", scan, {"q_bias": torch.zeros(4, 2, 6)}, R=0)


def test_the_right_arguments_pass() -> None:
    assert scan({}).shape == scan({"cu_seqlens": torch.tensor([0, 2, 5])}).shape == (1, 5, 4, 3)
    single = example(0, T=5, H=4, N=6, P=3, R=0, S=3)
    with_rank = single | {name: single[name].unsqueeze(1) for name in ("q_bias", "k_bias")}
    plain, ranked = (mamba3_scan(**x, pairing="interleaved") for x in (single, with_rank))
    assert torch.equal(plain, ranked)


@pytest.mark.parametrize(
    ("field", "shape", "part"),
    [
        ("theta", (2, 4, 2), "[n, H, S] = [2, 4, 3]"),
        ("h", (2, 4, 6, 3), "[n, H, P, N] = [2, 4, 3, 6]"),
        ("k", (2, 4, 2, 6), "[n, R, H, N] = [2, 2, 4, 6]"),
        ("v", (1, 4, 3), "[1, 4, 3] came, [n, H, P] = [2, 4, 3]"),
    ],
)
def test_wrong_states(field: str, shape: tuple[int, ...], part: str) -> None:
    arguments = example(0, B=2, T=5, H=4, G=2, N=6, P=3, R=2, S=3)
    good = dict(zip(("theta", "h", "k", "v"), example_state(0, arguments, 2), strict=True))
    bad = tuple((good | {field: torch.zeros(shape, dtype=torch.float64)}).values())
    refused(f"initial_state.{field}", part, mamba3_scan, **arguments, pairing="half", initial_state=bad)
    refused(f"state.{field}", part, mamba3_step, **token(arguments, 0), pairing="half", state=bad)
    half = tuple((good | {field: good[field].float()}).values())
    refused(f"state.{field}", "float64 throughout", mamba3_step, **token(arguments, 0), pairing="half", state=half)


def test_a_state_has_a_row_for_every_sequence() -> None:
    arguments = example(0, T=5)
    state = example_state(0, arguments, 3)
    offsets = torch.tensor([0, 2, 5])
    refused(
        "initial_state.theta",
        "[3, 2, 2] came, [n, H, S] = [2, 2, 2]",
        mamba3_scan,
        **arguments,
        pairing="half",
        cu_seqlens=offsets,
        initial_state=state,
    )
    refused("state", "list came", mamba3_step, **token(arguments, 0), pairing="half", state=list(state))
    refused("state", "NoneType came", mamba3_step, **token(arguments, 0), pairing="half", state=None)


def test_wrong_step_arguments() -> None:
    arguments = token(example(0, T=5, R=2, dtype=torch.float32), 0)
    state = tuple(x.float() for x in example_state(0, example(0, R=2), 1))
    for name, x, part in (
        ("q", torch.zeros(1, 1, 6), "[B, R, G, N]"),
        ("adt", torch.zeros(1, 2, 1), "[B, H] = [1, 2]"),
        ("v", torch.zeros(1, 1, 2, 3), "[B, H, P]"),
        ("angles", torch.zeros(1, 2), "[B, H or 1, S]"),
    ):
        refused(name, part, mamba3_step, **(arguments | {name: x}), pairing="half", state=state)
    refused("backend", "'cuda' came", mamba3_step, **arguments, pairing="half", state=state, backend="cuda")


def test_inplace_needs_no_grad_and_the_compute_dtype() -> None:
    arguments = token(example(0, T=5, R=2, dtype=torch.float32), 0)
    state = tuple(x.float() for x in example_state(0, example(0, R=2), 1))
    refused("inplace", "gradients are recorded", mamba3_step, **arguments, pairing="half", state=state, inplace=True)
    half = (state[0], state[1].bfloat16(), *state[2:])
    with torch.no_grad():
        refused("state.h", "torch.bfloat16 came", mamba3_step, **arguments, pairing="half", state=half, inplace=True)
