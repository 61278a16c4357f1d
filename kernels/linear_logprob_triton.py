"""Log-probability, entropy and log-sum-exp of hidden W^T in vocabulary tiles, and sampling from it.

The vocabulary is cut into splits of TILES tiles of BN entries. One program takes BM rows through one split, tile after tile, with a
running maximum, and leaves four numbers a row and split; a second kernel folds a row's splits. The learner, which knows the token,
and decode, which draws it, run the same two compiled kernels and differ in run-time flags: the log-probability has the same bits.
Decode also stores its few rows of logits, [T, V] in fp32, for a third kernel that adds the noise; the learner never has such a
tensor: its backward pass makes the logits again, a slice of the vocabulary at a time, and leaves the two products to torch.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

from .fixed_matmul import tile_product
from .kernel_registry import POINTERS, Variant, announce
from .launch_table import Launch, lookup
from .operands import architecture, check_like, check_product, dense, dtype_name
from .tile_noise import tile_gumbel

FIELDS = 4  # of a row and split: maximum, sum, spread, logit of the token
LEAST = tl.constexpr(-1e30)  # stands for -inf: differences of two of them, and 0 times them, are no NaN
PIECE = 4096  # vocabulary entries that one program draws from
DRAW_WARPS = 4
FOLD_WARPS = 1  # of the kernel that folds one row's splits
GRADIENTS_AT_ONCE = 1 << 26  # elements of [tokens, vocabulary] whose gradient may be live


class LinearLogprob(NamedTuple):
    """All [T] fp32, natural units, of softmax(hidden weight^T / temperature)."""

    logprob: Tensor
    entropy: Tensor
    logsumexp: Tensor


@triton.jit
def _scale_of(p_temperature, o_row, stride_temperature):
    """1 / temperature of rows, 1 where it is 0 (greedy)."""
    temperature = tl.load(p_temperature + o_row * stride_temperature)
    return 1.0 / tl.where(temperature > 0.0, temperature, 1.0)


@triton.jit(do_not_specialize=["T", "stride_temperature", "storing"])
def _split_kernel(
    p_hidden, p_weight, p_targets, p_temperature, p_part, p_logits, T, stride_temperature, storing,
    D: tl.constexpr, V: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, TILES: tl.constexpr
):  # fmt: skip
    # Row blocks vary fastest: programs that read the same weight tile run together and find it in L2.
    row_blocks = tl.cdiv(T, BM)
    i_row, i_split = tl.program_id(0) % row_blocks, tl.program_id(0) // row_blocks
    o_row = i_row * BM + tl.arange(0, BM)
    o_in = tl.minimum(o_row, T - 1)
    m_row = o_row < T
    b_scale = _scale_of(p_temperature, o_in, stride_temperature)
    b_target = tl.load(p_targets + o_in).to(tl.int32)
    p_logits += i_row.to(tl.int64) * BM * V
    b_max = tl.full((BM,), LEAST, tl.float32)
    b_sum = tl.zeros((BM,), tl.float32)  # of exp(x - max)
    b_spread = tl.zeros((BM,), tl.float32)  # of exp(x - max) (x - max): entropy = log sum - spread / sum
    b_picked = tl.zeros((BM,), tl.float32)
    for i in range(TILES):
        o_col = (i_split * TILES + i) * BN + tl.arange(0, BN)
        b_x = tile_product(p_hidden, p_weight, o_in, tl.minimum(o_col, V - 1), D, BM, BN, BK) * b_scale[:, None]
        if storing != 0:
            m_x = m_row[:, None] & (o_col[None, :] < V)
            tl.store(p_logits + tl.arange(0, BM)[:, None] * V + o_col[None, :], b_x, mask=m_x)
        b_x = tl.where(o_col[None, :] < V, b_x, LEAST)
        b_picked += tl.sum(tl.where(o_col[None, :] == b_target[:, None], b_x, 0.0), 1)
        b_new = tl.maximum(b_max, tl.max(b_x, 1))
        b_shift = b_x - b_new[:, None]
        b_exp = tl.exp(b_shift)
        b_less = b_max - b_new
        b_decay = tl.exp(b_less)
        b_spread = b_decay * (b_spread + b_less * b_sum) + tl.sum(b_exp * b_shift, 1)
        b_sum = b_decay * b_sum + tl.sum(b_exp, 1)
        b_max = b_new
    SPLITS: tl.constexpr = (V + BN * TILES - 1) // (BN * TILES)
    p_part += o_row.to(tl.int64) * SPLITS + i_split
    n_part = T.to(tl.int64) * SPLITS
    tl.store(p_part, b_max, mask=m_row)
    tl.store(p_part + n_part, b_sum, mask=m_row)
    tl.store(p_part + 2 * n_part, b_spread, mask=m_row)
    tl.store(p_part + 3 * n_part, b_picked, mask=m_row)


@triton.jit(do_not_specialize=["stride_temperature"])
def _draw_kernel(
    p_logits, p_temperature, p_seed, p_keys, p_positions, p_best, p_best_logit, p_best_token, stride_temperature,
    V: tl.constexpr, PIECES: tl.constexpr, BV: tl.constexpr
):  # fmt: skip
    """The greatest noisy logit of one row's piece of BV vocabulary entries, the first among equals."""
    i_row, i_piece = tl.program_id(0).to(tl.int64), tl.program_id(1)
    o_col = i_piece * BV + tl.arange(0, BV)
    m_col = o_col < V
    b_x = tl.load(p_logits + i_row * V + o_col, mask=m_col, other=-float("inf"))
    noise = tile_gumbel(tl.load(p_seed), tl.load(p_keys + i_row), tl.load(p_positions + i_row), i_piece * BV, BV)
    greedy = tl.load(p_temperature + i_row * stride_temperature) <= 0.0
    b_noisy = tl.where(greedy, b_x, b_x + noise)
    best = tl.max(b_noisy, 0)
    token = tl.minimum(tl.min(tl.where(b_noisy == best, o_col, V), 0), V - 1)  # the bound is for logits that are NaN
    tl.store(p_best + i_row * PIECES + i_piece, best)
    tl.store(p_best_token + i_row * PIECES + i_piece, token)
    tl.store(p_best_logit + i_row * PIECES + i_piece, tl.sum(tl.where(o_col == token, b_x, 0.0), 0))


@triton.jit(do_not_specialize=["T", "drawing"])
def _fold_kernel(
    p_part, p_logprob, p_entropy, p_logsumexp, p_best, p_best_logit, p_best_token, p_token, T, drawing,
    SPLITS: tl.constexpr, BS: tl.constexpr, PIECES: tl.constexpr, BP: tl.constexpr
):  # fmt: skip
    """One row: its splits become its three results; when drawing, the best of its pieces becomes its token."""
    i_row = tl.program_id(0).to(tl.int64)
    o_split = tl.arange(0, BS)
    m_split = o_split < SPLITS
    p_part += i_row * SPLITS + o_split
    n_part = T.to(tl.int64) * SPLITS
    b_max = tl.load(p_part, mask=m_split, other=LEAST)
    b_sum = tl.load(p_part + n_part, mask=m_split, other=0.0)
    b_spread = tl.load(p_part + 2 * n_part, mask=m_split, other=0.0)
    picked = tl.sum(tl.load(p_part + 3 * n_part, mask=m_split, other=0.0), 0)  # one of them is not 0
    if drawing != 0:
        o_piece = tl.arange(0, BP)
        m_piece = o_piece < PIECES
        b_best = tl.load(p_best + i_row * PIECES + o_piece, mask=m_piece, other=-float("inf"))
        m_first = m_piece & (o_piece == tl.min(tl.where(b_best == tl.max(b_best, 0), o_piece, PIECES), 0))
        b_token = tl.load(p_best_token + i_row * PIECES + o_piece, mask=m_first, other=0)
        picked = tl.sum(tl.load(p_best_logit + i_row * PIECES + o_piece, mask=m_first, other=0.0), 0)
        tl.store(p_token + i_row, tl.sum(b_token, 0).to(tl.int64))
    top = tl.max(b_max, 0)
    b_less = b_max - top
    b_decay = tl.exp(b_less)
    total = tl.sum(b_decay * b_sum, 0)
    spread = tl.sum(b_decay * (b_spread + b_less * b_sum), 0)
    log_total = tl.log(total)
    tl.store(p_logprob + i_row, (picked - top) - log_total)
    tl.store(p_entropy + i_row, log_total - spread / total)
    tl.store(p_logsumexp + i_row, top + log_total)


@triton.jit(do_not_specialize=["T", "stride_temperature", "first", "width"])
def _gradient_kernel(
    p_hidden, p_weight, p_targets, p_temperature, p_logsumexp, p_entropy, p_g_logprob, p_g_entropy, p_g_logsumexp, p_out,
    T, stride_temperature, first, width,
    D: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr
):  # fmt: skip
    """d loss / d (hidden W^T) of vocabulary entries first .. first + width - 1, as [T, width]."""
    row_blocks = tl.cdiv(T, BM)
    i_row = tl.program_id(0) % row_blocks
    o_row = i_row * BM + tl.arange(0, BM)
    o_in = tl.minimum(o_row, T - 1)
    o_out = tl.program_id(0) // row_blocks * BN + tl.arange(0, BN)
    o_col = first + tl.minimum(o_out, width - 1)
    b_scale = _scale_of(p_temperature, o_in, stride_temperature)
    b_x = tile_product(p_hidden, p_weight, o_in, o_col, D, BM, BN, BK) * b_scale[:, None]
    b_log = b_x - tl.load(p_logsumexp + o_in)[:, None]
    b_p = tl.exp(b_log)
    g_logprob, g_entropy = tl.load(p_g_logprob + o_in), tl.load(p_g_entropy + o_in)
    m_target = o_col[None, :] == tl.load(p_targets + o_in).to(tl.int32)[:, None]
    # d logprob / dx = [target] - p;  d entropy / dx = -p (log p + entropy);  d logsumexp / dx = p
    b_rest = (tl.load(p_g_logsumexp + o_in) - g_logprob - g_entropy * tl.load(p_entropy + o_in))[:, None]
    b_g = tl.where(m_target, g_logprob[:, None], 0.0) + b_p * (b_rest - g_entropy[:, None] * b_log)
    p_out += i_row.to(tl.int64) * BM * width
    p_out += tl.arange(0, BM)[:, None] * width + o_out[None, :]
    m_out = (o_row[:, None] < T) & (o_out[None, :] < width)
    tl.store(p_out, (b_g * b_scale[:, None]).to(p_out.dtype.element_ty), mask=m_out)


class _Draw(NamedTuple):
    """The names of the noise: seed int64 [1], sequence keys int64 [T], positions int64 [T]."""

    seed: Tensor
    keys: Tensor
    positions: Tensor


def _row(direction: str, hidden: Tensor, weight: Tensor) -> Launch:
    arch, sizes = architecture("hidden", hidden), dict(D=weight.shape[1], V=weight.shape[0])
    return lookup("linear_logprob", direction, dtype_name("hidden", hidden), arch, **sizes)


def _forward(
    hidden: Tensor, weight: Tensor, temperature: Tensor, targets: Tensor | None, draw: _Draw | None
) -> tuple[LinearLogprob, Tensor]:
    """For given targets or for tokens drawn now; exactly one of targets and draw is given."""
    (T, D), V = hidden.shape, weight.shape[0]
    out = LinearLogprob(*(hidden.new_empty(T, dtype=torch.float32) for _ in range(3)))
    tokens = torch.empty(T, dtype=torch.int64, device=hidden.device)
    if T == 0:
        return out, tokens
    row = _row("forward", hidden, weight)
    splits, pieces = _splits(row, V), triton.cdiv(V, PIECE)
    part = hidden.new_empty((FIELDS, T, splits), dtype=torch.float32)
    drawing = int(draw is not None)
    logits = hidden.new_empty((T, V) if drawing else 1, dtype=torch.float32)
    # In a decode call the split kernel picks the logits of whatever lies in `tokens`; they are not used.
    _split_kernel[(triton.cdiv(T, row.blocks["BM"]) * splits,)](
        hidden, weight, tokens if targets is None else targets, temperature, part, logits,
        T, temperature.stride(0), drawing, D, V, **row.blocks, **row.options,
    )  # fmt: skip
    found = (T, pieces) if drawing else (1,)
    best = [hidden.new_empty(found, dtype=dtype) for dtype in (torch.float32, torch.float32, torch.int32)]
    if draw is not None:
        _draw_kernel[(T, pieces)](
            logits, temperature, *draw, *best, temperature.stride(0), V, pieces, PIECE, num_warps=DRAW_WARPS
        )
    _fold_kernel[(T,)](
        part, *out, *best, tokens, T, drawing,
        splits, triton.next_power_of_2(splits), pieces, triton.next_power_of_2(pieces), num_warps=FOLD_WARPS,
    )  # fmt: skip
    return out, tokens


def _splits(row: Launch, V: int) -> int:
    return triton.cdiv(V, row.blocks["BN"] * row.blocks["TILES"])


def _gradients(
    hidden: Tensor, weight: Tensor, row_inputs: tuple[Tensor, ...], stride: int, wants: tuple[bool, bool]
) -> tuple[Tensor | None, Tensor | None]:
    """d hidden and d weight, a slice of the vocabulary at a time, always in the same order."""
    (T, D), V = hidden.shape, weight.shape[0]
    row = _row("backward", hidden, weight)
    BM, BN = row.blocks["BM"], row.blocks["BN"]
    slice_width = max(GRADIENTS_AT_ONCE // max(T, 1) // BN, 1) * BN
    g_hidden = torch.zeros((T, D), dtype=torch.float32, device=hidden.device) if wants[0] else None
    g_weight = torch.empty_like(weight) if wants[1] else None
    for first in range(0, V, slice_width):
        width = min(slice_width, V - first)
        g = hidden.new_empty((T, width))
        _gradient_kernel[(triton.cdiv(T, BM) * triton.cdiv(width, BN),)](
            hidden, weight, *row_inputs, g, T, stride, first, width, D, **row.blocks, **row.options
        )
        if g_hidden is not None:
            _add_product(g_hidden, g, weight[first : first + width])
        if g_weight is not None:
            torch.mm(g.t(), hidden, out=g_weight[first : first + width])
    return None if g_hidden is None else g_hidden.to(hidden.dtype), g_weight


def _add_product(total: Tensor, a: Tensor, b: Tensor) -> None:
    """total += a b with an fp32 total."""
    if a.dtype == torch.float32:
        total.addmm_(a, b)
    else:
        torch.addmm(total, a, b, out_dtype=torch.float32, out=total)


class _LinearLogprob(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, temperature: Tensor) -> tuple[Tensor, ...]:
        out, _ = _forward(hidden, weight, temperature, targets, None)
        ctx.save_for_backward(hidden, weight, targets, temperature, out.logsumexp, out.entropy)
        return tuple(out)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor | None, Tensor | None, None, None]:
        hidden, weight, targets, temperature, logsumexp, entropy = ctx.saved_tensors
        if hidden.shape[0] == 0:
            return torch.zeros_like(hidden), torch.zeros_like(weight), None, None
        g = tuple(dense(x.float()) for x in grads)
        inputs = (targets, temperature, logsumexp, entropy, *g)
        wants = (ctx.needs_input_grad[0], ctx.needs_input_grad[1])
        return *_gradients(hidden, weight, inputs, temperature.stride(0), wants), None, None


def _check(hidden: Tensor, weight: Tensor) -> None:
    if hidden.ndim != 2:
        raise ValueError(f"hidden: shape {list(hidden.shape)} came, [T, D] wanted")
    check_product("hidden", hidden, "weight", weight)
    architecture("hidden", hidden)


def _temperatures(temperature: float | Tensor, hidden: Tensor, *, greedy: bool) -> Tensor:
    """fp32 [1] (with stride 0) or [T] on hidden's device. Only a number's value is checked: a tensor's would need a wait."""
    if isinstance(temperature, Tensor):
        rows = hidden.shape[0] if temperature.shape != (1,) else 1
        check_like("temperature", temperature, (rows,), hidden, (torch.float32,))
        return dense(temperature) if rows == hidden.shape[0] > 1 else dense(temperature).expand(2)
    if not (temperature > 0 or (greedy and temperature == 0)):
        raise ValueError(f"temperature: {temperature} came, a number {'>= 0' if greedy else '> 0'} wanted")
    return torch.full((1,), temperature, dtype=torch.float32, device=hidden.device).expand(2)


def linear_logprob_triton(
    hidden: Tensor, weight: Tensor, targets: Tensor, temperature: float | Tensor = 1.0
) -> LinearLogprob:
    """Logprob of each target, entropy and log-sum-exp of softmax(hidden weight^T / temperature); differentiable.

    hidden [T, D] and weight [V, D], both fp32 or both bf16; targets int64 [T] in 0 .. V - 1 (checked where they lie in host
    memory); temperature a number > 0, or fp32 [1] or [T] on the device, 0 there standing for 1 as in `sample_logprob_triton`.
    A row's three numbers depend on its own hidden, target and temperature and on weight alone. Live memory beyond the results:
    4 fp32 numbers a row and split in the forward pass; GRADIENTS_AT_ONCE elements and d hidden in fp32 in the backward pass.
    Raises ValueError for a wrong argument, by name.
    """
    _check(hidden, weight)
    check_like("targets", targets, (hidden.shape[0],), hidden, (torch.int64,))
    if not targets.is_cuda and targets.numel() and not 0 <= int(targets.min()) <= int(targets.max()) < weight.shape[0]:
        raise ValueError(
            f"targets: {int(targets.min())} .. {int(targets.max())} came, 0 .. {weight.shape[0] - 1} wanted"
        )
    scale = _temperatures(temperature, hidden, greedy=False)
    return LinearLogprob(*_LinearLogprob.apply(dense(hidden), dense(weight), dense(targets), scale))


@torch.no_grad()
def sample_logprob_triton(
    hidden: Tensor, weight: Tensor, *, seed: Tensor, keys: Tensor, positions: Tensor, temperature: float | Tensor
) -> tuple[Tensor, Tensor]:
    """Draw a token a row by Gumbel-max with the noise of sampling.gumbel_noise -> (tokens int64 [T], logprobs fp32 [T]).

    hidden [T, D], weight [V, D] as in `linear_logprob_triton`, whose logprob of the drawn token has the same bits.
    seed int64 [1]; keys int64 [T], the bits of the unsigned sequence keys; positions int64 [T]; temperature a number, or fp32
    [1] or [T] on the device, 0 for greedy (the first of equal logits; its logprob is that at temperature 1). Live memory: the
    logits, fp32 [T, V]. Nothing waits for the device: with a temperature tensor a call can be captured in a CUDA graph and
    replayed with other contents of its tensors.
    Raises ValueError for a wrong argument, by name.
    """
    _check(hidden, weight)
    check_like("seed", seed, (1,), hidden, (torch.int64,))
    check_like("keys", keys, (hidden.shape[0],), hidden, (torch.int64,))
    check_like("positions", positions, (hidden.shape[0],), hidden, (torch.int64,))
    scale = _temperatures(temperature, hidden, greedy=True)
    draw = _Draw(dense(seed), dense(keys), dense(positions))
    out, tokens = _forward(dense(hidden), dense(weight), scale, None, draw)
    return tokens, out.logprob


def _variants(row: Launch) -> list[Variant]:
    pointer, (D, V) = POINTERS[row.dtype], (row.shape["D"], row.shape["V"])
    numbers = ("T", "stride_temperature", "storing", "drawing", "first", "width")
    of_rows = ("temperature", "logprob", "entropy", "logsumexp", "g_logprob", "g_entropy", "g_logsumexp")
    wide = (*of_rows, "part", "logits", "best", "best_logit")
    types = {f"p_{name}": pointer for name in ("hidden", "weight", "out")} | {f"p_{name}": "*fp32" for name in wide}
    types |= {f"p_{name}": "*i64" for name in ("targets", "seed", "keys", "positions", "token")}
    types |= {"p_best_token": "*i32"} | dict.fromkeys(numbers, "i32")
    mma = row.dtype == "bf16"
    if row.direction == "backward":
        return [Variant("logprob gradient", _gradient_kernel, types, {"D": D, **row.blocks}, numbers, mma)]
    splits, pieces = _splits(row, V), triton.cdiv(V, PIECE)
    fold = {"SPLITS": splits, "BS": triton.next_power_of_2(splits)}
    fold |= {"PIECES": pieces, "BP": triton.next_power_of_2(pieces)}
    draw = {"V": V, "PIECES": pieces, "BV": PIECE}
    return [
        Variant("logprob splits", _split_kernel, types, {"D": D, "V": V, **row.blocks}, numbers, mma),
        Variant("logprob draw", _draw_kernel, types, draw, numbers, warps=DRAW_WARPS),
        Variant("logprob fold", _fold_kernel, types, fold, numbers, warps=FOLD_WARPS),
    ]


announce("linear_logprob", _variants)
