"""One token of many sequences by the recurrence: everything between in_proj and out_proj in one launch, the fp32 state read and written.

Section 4 of the layer's specification. The baseline of the replay (decode.py) and the step for tokens that were normed elsewhere.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from .checks import Sizes
from .chunk_tile import PI, QUERIES, cos_sin, partner, reduce_angle, sigmoid, tanh, token_scalars
from .decode import NORMED, RAW, check_slots, store_token, token_rows
from .projection import Layer, check_rows
from .rotation import Pairing
from .scan_forward import TYPES
from .tensors import State, Tokens, Weights
from .tile_table import check_tile, pinned


@triton.jit
def recurrent_kernel(
    p_z, p_x, p_b, p_c, p_dt, p_a, p_trap, p_angle, p_b_norm, p_c_norm, p_dt_bias,
    p_q_bias, p_k_bias, p_d, p_mimo_x, p_mimo_z, p_mimo_o, p_norm, p_slots,
    p_theta, p_h, p_k, p_v, p_out, s_z, s_x, s_b, s_c, s_dt, s_a, s_trap, s_angle, s_angle_head,
    H: tl.constexpr, G: tl.constexpr, R: tl.constexpr, N: tl.constexpr, P: tl.constexpr, S: tl.constexpr,
    HALF: tl.constexpr, MIMO: tl.constexpr, NORM: tl.constexpr, DT: tl.constexpr, SOURCE: tl.constexpr, SLOTS: tl.constexpr,
    HEAVY: tl.constexpr, FLOOR: tl.constexpr, EPS: tl.constexpr,
):  # fmt: skip
    """p_out [n, H, P]; the state p_theta [slots, H, S], p_h [slots, H, P, N], p_k [slots, R, H, N], p_v [slots, H, P] in place.

    SOURCE RAW: the rows of in_proj; NORMED: B and C after the norm, dt and A dt after their activations. Grid (n, H).
    """
    i_n, i_h = tl.program_id(0).to(tl.int64), tl.program_id(1)
    n, x, j = tl.arange(0, N), tl.arange(0, P), tl.arange(0, S)
    slot = i_n
    if SLOTS:
        slot = tl.load(p_slots + i_n).to(tl.int64)
    p_out += (i_n * H + i_h) * P
    if slot < 0:
        tl.store(p_out + x, tl.zeros((P,), p_out.dtype.element_ty))
        return
    p_h += (slot * H + i_h) * P * N + x[:, None] * N + n[None, :]
    h = tl.load(p_h)  # nearly all of the bytes: asked for first
    a, dt = tl.load(p_a + i_n * s_a + i_h), tl.load(p_dt + i_n * s_dt + i_h)
    trap = tl.load(p_trap + i_n * s_trap + i_h).to(tl.float32)
    if SOURCE == RAW:
        a, dt, trap = token_scalars(dt, a, trap, tl.load(p_dt_bias + i_h).to(tl.float32), HEAVY, FLOOR)
    else:
        a, dt = a.to(tl.float32), dt.to(tl.float32)
    p_angle += i_n * s_angle + i_h * s_angle_head
    p_theta += (slot * H + i_h) * S
    _, o_angle, _ = partner(n, N, S, HALF)
    theta = tl.load(p_theta + o_angle) + tanh(tl.load(p_angle + o_angle).to(tl.float32)) * (dt * PI)
    cos, sin = cos_sin(reduce_angle(theta))
    theta = reduce_angle(tl.load(p_theta + j) + tanh(tl.load(p_angle + j).to(tl.float32)) * (dt * PI))

    i, group = tl.arange(0, QUERIES), i_h // (H // G)
    m, o_bc, o_bias = i < R, (i * G + group) * N, (i_h * R + i) * N
    p_b, p_c, p_x, p_z = p_b + i_n * s_b, p_c + i_n * s_c, p_x + i_n * s_x + i_h * P, p_z + i_n * s_z + i_h * P
    _, k_now = token_rows(p_b, p_b_norm, p_k_bias, o_bc, o_bias, m, cos, sin, N, S, HALF, EPS, DT, SOURCE)
    _, q = token_rows(p_c, p_c_norm, p_q_bias, o_bc, o_bias, m, cos, sin, N, S, HALF, EPS, DT, SOURCE)
    p_k, p_v = p_k + (slot * R * H + i_h) * N, p_v + (slot * H + i_h) * P + x
    x_now = tl.load(p_x + x)
    v, v_before = x_now.to(tl.float32), tl.load(p_v).to(tl.float32)
    alpha, gamma = tl.exp(a), dt * sigmoid(trap)
    v, v_before = v * gamma, v_before * (dt * sigmoid(-trap) * alpha)
    h = h * alpha
    for r in tl.static_range(R):
        before = v_before
        if MIMO:
            before = before * tl.load(p_mimo_x + (i_h * R + r) * P + x).to(tl.float32)
        h += before[:, None] * tl.load(p_k + r * H * N + n).to(tl.float32)[None, :]
    tl.debug_barrier()  # every thread has read what is replaced from here on: a row may be held by several
    tl.store(p_theta + j, theta)
    tl.store(p_v, x_now.to(p_v.dtype.element_ty))
    tl.store(p_k + (i * H * N)[:, None] + n[None, :], k_now.to(p_k.dtype.element_ty), mask=m[:, None])
    tl.debug_barrier()
    for r in tl.static_range(R):
        written = v
        if MIMO:
            written = written * tl.load(p_mimo_x + (i_h * R + r) * P + x).to(tl.float32)
        h += written[:, None] * tl.load(p_k + r * H * N + n).to(tl.float32)[None, :]
    tl.store(p_h, h)
    y = tl.dot(h.to(DT), tl.trans(q.to(DT)), input_precision="ieee")
    store_token(y, p_x, p_z, p_d, p_mimo_x, p_mimo_z, p_mimo_o, p_norm, p_out, i_h, P, R, MIMO, NORM)


def _launch(s: Sizes, weights: Weights, pairing: Pairing, state: State, operands: tuple[Any, ...], slots: Tensor | None,
            out: Tensor, strides: tuple[int, ...], **settings: Any) -> None:  # fmt: skip
    """operands: z, x, B, C, dt, A (or A dt), trap, angles, B's and C's norm, dt_bias, the last three None when NORMED."""
    recurrent_kernel[(len(out), s.H)](
        *operands, *weights, slots, *state, out, *strides,
        H=s.H, G=s.G, R=s.R, N=s.N, P=s.P, S=s.S, HALF=pairing == "half", MIMO=weights.mimo_x is not None,
        NORM=weights.norm_weight is not None, DT=TYPES[out.dtype], SLOTS=slots is not None,
        **pinned("recurrent", "step", s, out),
        **settings,
    )  # fmt: skip


@torch.no_grad()
def mamba3_recurrent(
    projection: Tensor, layer: Layer, state: State, slots: Tensor, out: Tensor | None = None
) -> Tensor:
    """One token of n slots by the recurrence, one launch: in_proj's rows [n, width] -> [n, H, P] for out_proj, in their dtype.

    state  (theta fp32 [slots, H, S], h fp32 [slots, H, P, N], k [slots, R, H, N], v [slots, H, P]), contiguous, changed in place
    slots  int32 [n] on the device: the slot of every row, all different; -1: nobody, its row of the result is 0
    out    [n, H, P] to be written, for a CUDA graph; None allocates

    Raises a ValueError that names the argument for a wrong form; a slot number past the end is not noticed on a GPU.
    """
    s = check_rows(layer, projection, 2)
    check_slots(slots, projection)
    count = _check_slot_state(state, s, projection)
    if projection.device.type == "cpu" and len(slots) and int(slots.max()) >= count:
        raise ValueError(f"slots: {int(slots.max())} came, -1 to {count - 1} wanted")
    if out is None:
        out = projection.new_empty(len(projection), s.H, s.P)
    parts = projection.split(layer.widths, dim=-1)
    _launch(
        s, layer.weights, layer.pairing, state, (*parts, layer.b_norm, layer.c_norm, layer.dt_bias), slots, out,
        (*(projection.stride(0) for _ in parts), 0), SOURCE=RAW, HEAVY=layer.a_activation == "heavy_tail",
        FLOOR=layer.a_floor, EPS=layer.norm_eps,
    )  # fmt: skip
    return out


def _check_slot_state(state: State, s: Sizes, rows: Tensor) -> int:
    """The number of slots of a state that is changed in place."""
    shapes = ((s.H, s.S), (s.H, s.P, s.N), (s.R, s.H, s.N), (s.H, s.P))
    count = len(state[1])
    for name, x, shape in zip(State._fields, state, shapes, strict=True):
        if x.shape != (count, *shape) or not x.is_contiguous() or x.device != rows.device:
            raise ValueError(f"state.{name}: {list(x.shape)} on {x.device} came, contiguous {[count, *shape]} wanted")
        if name in ("theta", "h") and x.dtype != torch.float32:
            raise ValueError(f"state.{name}: {x.dtype} came, torch.float32 wanted")
    return count


def step(tokens: Tokens, weights: Weights, *, pairing: Pairing, state: State, inplace: bool) -> tuple[Tensor, State]:
    """dispatch.mamba3_step with checked arguments; no gradient. Raises a ValueError for what the kernel does not take."""
    (n, H, P), (_, R, G, N), v = tokens.v.shape, tokens.q.shape, tokens.v
    s = Sizes(n, None, H, P, R, G, N, tokens.angles.shape[-1])
    check_tile(s, 1, v.dtype, v.device)
    if torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in (*tokens, *weights, *state)):
        raise ValueError("backend: 'triton' came for a step with gradients; 'reference', or torch.no_grad(), wanted")
    keep = inplace and all(x.is_contiguous() for x in state)
    new = state if keep else State(*(x.float().contiguous().clone() for x in state))
    t = Tokens(*(x if x[0].is_contiguous() else x.contiguous() for x in tokens))
    w = Weights(*(x if x is None else x.contiguous() for x in weights))  # type: ignore[arg-type]
    out = torch.empty_like(v, memory_format=torch.contiguous_format)
    moving = (t.z, t.v, t.k, t.q, t.dt, t.adt, t.trap, t.angles)
    with torch.no_grad():
        _launch(
            s, w, pairing, new, (*moving, None, None, None), None, out,
            (*(x.stride(0) for x in moving), s.S if t.angles.shape[1] > 1 else 0), SOURCE=NORMED, HEAVY=False, FLOOR=0.0, EPS=0.0,
        )  # fmt: skip
        if inplace and new is not state:
            for x, y in zip(state, new, strict=True):
                x.copy_(y)
    return out, state if inplace else new
