"""An oracle for the kernels: the recurrence token by token and head by head, written from docs/mamba3.md, sections 3 and 4.

It shares no code with the package, and is slow on purpose.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

TOKENS = ("q", "k", "v", "z", "adt", "dt", "trap", "angles")
FIELDS = ("theta", "h", "k", "v")
Arguments = dict[str, Tensor]


def example(
    seed: int,
    *,
    B: int = 1,
    T: int = 5,
    H: int = 2,
    G: int = 1,
    N: int = 6,
    P: int = 3,
    R: int = 1,
    S: int = 2,
    norm: bool = False,
    shared_angles: bool = False,
    dtype: torch.dtype = torch.float64,
) -> Arguments:
    """Random arguments of a scan; R = 0 leaves MIMO out. Time steps and decays are as large as a trained layer's may be."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    ranks = (R,) if R else ()
    dt = torch.nn.functional.softplus(normal(B, H, T))
    arguments = {
        "q": normal(B, T, *ranks, G, N),
        "k": normal(B, T, *ranks, G, N),
        "v": normal(B, T, H, P),
        "z": normal(B, T, H, P),
        "adt": -dt * torch.nn.functional.softplus(normal(B, H, T)),
        "dt": dt,
        "trap": normal(B, H, T),
        "angles": normal(B, T, 1 if shared_angles else H, S),
        "q_bias": normal(H, *ranks, N),
        "k_bias": normal(H, *ranks, N),
        "D": normal(H),
    }
    if R:
        arguments |= {name: normal(H, R, P) for name in ("mimo_x", "mimo_z", "mimo_o")}
    if norm:
        arguments["norm_weight"] = normal(H * P)
    return {name: x.to(dtype) for name, x in arguments.items()}


def example_state(seed: int, arguments: Arguments, rows: int) -> tuple[Tensor, ...]:
    """A random state of `rows` sequences for these arguments."""
    generator = torch.Generator().manual_seed(seed + 1)
    (H, P), S = arguments["v"].shape[2:], arguments["angles"].shape[-1]
    R, N = (arguments["q"].shape[2] if "mimo_x" in arguments else 1), arguments["q"].shape[-1]
    shapes = ((rows, H, S), (rows, H, P, N), (rows, R, H, N), (rows, H, P))
    return tuple(torch.randn(*s, generator=generator, dtype=torch.float64).to(arguments["v"].dtype) for s in shapes)


def piece(arguments: Arguments, start: int, end: int) -> Arguments:
    """The tokens start to end of a scan's arguments."""
    cut = dict(arguments)
    for name in TOKENS:
        cut[name] = arguments[name][:, :, start:end] if name in ("adt", "dt", "trap") else arguments[name][:, start:end]
    return cut


def token(arguments: Arguments, t: int) -> Arguments:
    """The arguments of the step at token t."""
    cut = piece(arguments, t, t + 1)
    return cut | {name: cut[name].squeeze(2 if name in ("adt", "dt", "trap") else 1) for name in TOKENS}


def _turned(u: Tensor, theta: Tensor, pairing: str) -> Tensor:
    """u [N] with pair j turned by theta[j]."""
    entries = list(u.unbind())
    for j, angle in enumerate(theta.unbind()):
        first, second = (2 * j, 2 * j + 1) if pairing == "interleaved" else (j, j + len(entries) // 2)
        x, y = entries[first], entries[second]
        entries[first] = x * torch.cos(angle) - y * torch.sin(angle)
        entries[second] = x * torch.sin(angle) + y * torch.cos(angle)
    return torch.stack(entries)


def recurrence(
    arguments: Arguments, pairing: str, state: tuple[Tensor, ...] | None = None
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """The output [B, T, H, P] and the state (theta, h, k, v) after the last token, one row of the batch at a time."""
    outs, ends = [], []
    for b in range(len(arguments["v"])):
        row = {name: x[b] if name in TOKENS else x for name, x in arguments.items()}
        heads = []
        for h in range(row["v"].shape[1]):
            heads.append(_head(row, h, pairing, None if state is None else tuple(x[b] for x in state)))
        outs.append(torch.stack([out for out, _ in heads], dim=1))
        theta, memory, k, v = (torch.stack([end[i] for _, end in heads]) for i in range(4))
        ends.append((theta, memory, k.transpose(0, 1), v))
    return torch.stack(outs), tuple(torch.stack(parts) for parts in zip(*ends, strict=True))


def _head(row: Arguments, h: int, pairing: str, state: tuple[Tensor, ...] | None) -> tuple[Tensor, tuple[Tensor, ...]]:
    """One head of one sequence: out [T, P] and theta [S], h [P, N], k [R, N], v [P]."""
    mimo = "mimo_x" in row
    T, H, P = row["v"].shape
    q, k = (row[name] if mimo else row[name].unsqueeze(1) for name in ("q", "k"))  # [T, R, G, N]
    q_bias, k_bias = (row[name][h] if mimo else row[name][h].unsqueeze(0) for name in ("q_bias", "k_bias"))
    ones = torch.ones(q.shape[1], P, dtype=q.dtype)
    mimo_x, mimo_z, mimo_o = (row[name][h] if mimo else ones for name in ("mimo_x", "mimo_z", "mimo_o"))
    R, G, N = q.shape[1:]
    group, angle_head = h // (H // G), h if row["angles"].shape[1] > 1 else 0
    theta, memory = torch.zeros(row["angles"].shape[-1], dtype=q.dtype), torch.zeros(P, N, dtype=q.dtype)
    k_before, v_before = torch.zeros(R, N, dtype=q.dtype), torch.zeros(P, dtype=q.dtype)
    if state is not None:
        theta, memory, k_before, v_before = state[0][h], state[1][h], state[2][:, h], state[3][h]
    outs = []
    for t in range(T):
        dt, alpha, lam = row["dt"][h, t], torch.exp(row["adt"][h, t]), torch.sigmoid(row["trap"][h, t])
        theta = theta + math.pi * torch.tanh(row["angles"][t, angle_head]) * dt
        q_now = torch.stack([_turned(q[t, r, group] + q_bias[r], theta, pairing) for r in range(R)])
        k_now = torch.stack([_turned(k[t, r, group] + k_bias[r], theta, pairing) for r in range(R)])
        v_now = row["v"][t, h]
        memory = alpha * memory
        for r in range(R):
            memory = memory + (1 - lam) * dt * alpha * torch.outer(v_before * mimo_x[r], k_before[r])
            memory = memory + lam * dt * torch.outer(v_now * mimo_x[r], k_now[r])
        out = torch.zeros(P, dtype=q.dtype)
        for r in range(R):
            y = memory @ q_now[r] + row["D"][h] * v_now * mimo_x[r]
            if "norm_weight" in row:
                y = y / torch.sqrt((y * y).mean() + 1e-5) * row["norm_weight"][h * P : (h + 1) * P]
            s = row["z"][t, h] * mimo_z[r]
            out = out + mimo_o[r] * y * s * torch.sigmoid(s)
        outs.append(out)
        k_before, v_before = k_now, v_now
    return torch.stack(outs), (theta, memory, k_before, v_before)
