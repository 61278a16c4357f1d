"""Log-probability, entropy and log-sum-exp of hidden W^T, and sampling from it, without a tensor of all logits.

The vocabulary is cut into splits of TILES tiles of BN entries. One program takes BM rows through one split, tile after tile, with a
running maximum, and leaves five numbers a row and split; a second kernel folds a row's splits. The learner, which knows the token,
and decode, which draws it, run the same two compiled kernels and differ in a run-time flag: the log-probability has the same bits.
The backward pass makes the logits again, a slice of the vocabulary at a time, and leaves the two products to torch.matmul.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from .fixed_matmul import tile_product
from .kernel_registry import POINTERS, Variant, announce
from .launch_table import Launch, lookup
from .operands import architecture, check_like, check_product, dense, dtype_name
from .tile_noise import tile_gumbel

FIELDS = 5  # of a row and split: maximum, sum, spread, logit of the token, noisy logit of the drawn token
FOLD_WARPS = 1  # of the kernel that folds one row's splits
GRADIENTS_AT_ONCE = 1 << 26  # elements of [tokens, vocabulary] whose gradient may be live


class LinearLogprob(NamedTuple):
    """All [T] fp32, natural units, of softmax(hidden weight^T / temperature)."""

    logprob: Tensor
    entropy: Tensor
    logsumexp: Tensor


@triton.jit
def _scale_of(p_temperature, o_row, stride_temperature):
    """1 / temperature of each row, 1 where it is 0 (greedy), and whether the row is greedy."""
    temperature = tl.load(p_temperature + o_row * stride_temperature)
    m_greedy = temperature <= 0.0
    return 1.0 / tl.where(m_greedy, 1.0, temperature), m_greedy


@triton.jit(do_not_specialize=["T", "stride_temperature", "drawing"])
def _split_kernel(
    p_hidden, p_weight, p_targets, p_temperature, p_seed, p_keys, p_positions, p_part, p_part_token,
    T, stride_temperature, drawing,
    D: tl.constexpr, V: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, TILES: tl.constexpr
):  # fmt: skip
    # Row blocks vary fastest: programs that read the same weight tile run together and find it in L2.
    row_blocks = tl.cdiv(T, BM)
    i_split = tl.program_id(0) // row_blocks
    o_row = tl.program_id(0) % row_blocks * BM + tl.arange(0, BM)
    o_in = tl.minimum(o_row, T - 1)
    b_scale, m_greedy = _scale_of(p_temperature, o_in, stride_temperature)
    b_target = tl.load(p_targets + o_in).to(tl.int32)  # of the token so far, when drawing
    b_key, b_position, seed = tl.load(p_keys + o_in), tl.load(p_positions + o_in), tl.load(p_seed)
    b_max = tl.full((BM,), -1e30, tl.float32)  # finite, so that differences of two of them are no NaN
    b_sum = tl.zeros((BM,), tl.float32)  # of exp(x - max)
    b_spread = tl.zeros((BM,), tl.float32)  # of exp(x - max) (x - max): entropy = log sum - spread / sum
    b_picked = tl.zeros((BM,), tl.float32)
    b_best = tl.full((BM,), -float("inf"), tl.float32)
    for i in range(TILES):
        first = (i_split * TILES + i) * BN
        o_col = first + tl.arange(0, BN)
        b_x = tile_product(p_hidden, p_weight, o_in, tl.minimum(o_col, V - 1), D, BM, BN, BK) * b_scale[:, None]
        m_col = o_col[None, :] < V
        if drawing != 0:
            b_noise = tl.where(m_greedy[:, None], 0.0, tile_gumbel(seed, b_key, b_position, first, BM, BN))
            b_noisy = tl.where(m_col, b_x + b_noise, -float("inf"))
            b_top = tl.max(b_noisy, 1)
            b_first = tl.min(tl.where(b_noisy == b_top[:, None], o_col[None, :], V), 1)
            m_better = b_top > b_best  # among equals the first entry of the vocabulary stays
            b_best = tl.where(m_better, b_top, b_best)
            b_target = tl.where(m_better, b_first, b_target)
            b_picked = tl.where(m_better, 0.0, b_picked)
        b_picked += tl.sum(tl.where((o_col[None, :] == b_target[:, None]) & m_col, b_x, 0.0), 1)
        b_x = tl.where(m_col, b_x, -float("inf"))
        b_new = tl.maximum(b_max, tl.max(b_x, 1))
        b_shift = tl.where(m_col, b_x - b_new[:, None], 0.0)
        b_exp = tl.where(m_col, tl.exp(b_shift), 0.0)
        b_less = b_max - b_new
        b_decay = tl.exp(b_less)
        b_spread = b_decay * (b_spread + b_less * b_sum) + tl.sum(b_exp * b_shift, 1)
        b_sum = b_decay * b_sum + tl.sum(b_exp, 1)
        b_max = b_new
    m_row = o_row < T
    o_part = o_row.to(tl.int64) * tl.cdiv(V, BN * TILES) + i_split
    n_part = T.to(tl.int64) * tl.cdiv(V, BN * TILES)
    tl.store(p_part + o_part, b_max, mask=m_row)
    tl.store(p_part + n_part + o_part, b_sum, mask=m_row)
    tl.store(p_part + 2 * n_part + o_part, b_spread, mask=m_row)
    tl.store(p_part + 3 * n_part + o_part, b_picked, mask=m_row)
    tl.store(p_part + 4 * n_part + o_part, b_best, mask=m_row)
    tl.store(p_part_token + o_part, b_target, mask=m_row)


@triton.jit(do_not_specialize=["T", "drawing"])
def _fold_kernel(
    p_part, p_part_token, p_logprob, p_entropy, p_logsumexp, p_token, T, drawing,
    SPLITS: tl.constexpr, BS: tl.constexpr
):  # fmt: skip
    i_row = tl.program_id(0).to(tl.int64)
    o_split = tl.arange(0, BS)
    m_split = o_split < SPLITS
    o_part = i_row * SPLITS + o_split
    n_part = T.to(tl.int64) * SPLITS
    b_max = tl.load(p_part + o_part, mask=m_split, other=-1e30)
    b_sum = tl.load(p_part + n_part + o_part, mask=m_split, other=0.0)
    b_spread = tl.load(p_part + 2 * n_part + o_part, mask=m_split, other=0.0)
    b_picked = tl.load(p_part + 3 * n_part + o_part, mask=m_split, other=0.0)
    top = tl.max(b_max, 0)
    b_less = b_max - top
    b_decay = tl.exp(b_less)
    total = tl.sum(b_decay * b_sum, 0)
    spread = tl.sum(b_decay * (b_spread + b_less * b_sum), 0)
    if drawing != 0:
        b_best = tl.load(p_part + 4 * n_part + o_part, mask=m_split, other=-float("inf"))
        b_token = tl.load(p_part_token + o_part, mask=m_split, other=0)
        i_best = tl.argmax(b_best, 0)  # the first among equals
        tl.store(p_token + i_row, tl.sum(tl.where(o_split == i_best, b_token, 0), 0).to(tl.int64))
        b_picked = tl.where(o_split == i_best, b_picked, 0.0)
    log_total = tl.log(total)
    tl.store(p_logprob + i_row, (tl.sum(b_picked, 0) - top) - log_total)
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
    b_scale, _ = _scale_of(p_temperature, o_in, stride_temperature)
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
    """Both kernels, for given targets or for tokens drawn now; exactly one of targets and draw is given."""
    (T, D), V = hidden.shape, weight.shape[0]
    out = LinearLogprob(*(hidden.new_empty(T, dtype=torch.float32) for _ in range(3)))
    tokens = torch.empty(T, dtype=torch.int64, device=hidden.device)
    if T == 0:
        return out, tokens
    row = _row("forward", hidden, weight)
    splits = triton.cdiv(V, row.blocks["BN"] * row.blocks["TILES"])
    part = hidden.new_empty((FIELDS, T, splits), dtype=torch.float32)
    part_token = torch.empty((T, splits), dtype=torch.int32, device=hidden.device)
    # The flag says which of these are used; the others only give the compiled kernel arguments of the same types.
    named = tokens if targets is None else targets
    seed, keys, positions = (named, named, named) if draw is None else draw
    _split_kernel[(triton.cdiv(T, row.blocks["BM"]) * splits,)](
        hidden, weight, named, temperature, seed, keys, positions, part, part_token,
        T, temperature.stride(0), int(draw is not None), D, V, **row.blocks, **row.options,
    )  # fmt: skip
    _fold_kernel[(T,)](
        part, part_token, *out, tokens, T, int(draw is not None),
        splits, triton.next_power_of_2(splits), num_warps=FOLD_WARPS,
    )  # fmt: skip
    return out, tokens


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
            g_hidden = _add_product(g_hidden, g, weight[first : first + width])
        if g_weight is not None:
            torch.mm(g.t(), hidden, out=g_weight[first : first + width])
    return None if g_hidden is None else g_hidden.to(hidden.dtype), g_weight


def _add_product(total: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """total + a b with an fp32 total."""
    if a.dtype == torch.float32:
        return total.addmm_(a, b)
    return torch.addmm(total, a, b, out_dtype=torch.float32)


class _LinearLogprob(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, temperature: Tensor) -> tuple[Tensor, ...]:
        out, _ = _forward(hidden, weight, temperature, targets, None)
        ctx.save_for_backward(hidden, weight, targets, temperature, out.logsumexp, out.entropy)
        return tuple(out)

    @staticmethod
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
    5 fp32 numbers a row and split in the forward pass, GRADIENTS_AT_ONCE elements in the backward pass.
    Raises ValueError for a wrong argument, by name.
    """
    _check(hidden, weight)
    check_like("targets", targets, (hidden.shape[0],), hidden, (torch.int64,))
    if not targets.is_cuda and targets.numel() and not 0 <= int(targets.min()) <= int(targets.max()) < weight.shape[0]:
        raise ValueError(f"targets: {int(targets.min())} .. {int(targets.max())} came, 0 .. {weight.shape[0] - 1} wanted")
    scale = _temperatures(temperature, hidden, greedy=False)
    return LinearLogprob(*_LinearLogprob.apply(dense(hidden), dense(weight), dense(targets), scale))


@torch.no_grad()
def sample_logprob_triton(
    hidden: Tensor, weight: Tensor, *, seed: Tensor, keys: Tensor, positions: Tensor, temperature: float | Tensor
) -> tuple[Tensor, Tensor]:
    """Draw a token a row by Gumbel-max with the noise of sampling.gumbel_noise -> (tokens int64 [T], logprobs fp32 [T]).

    hidden [T, D], weight [V, D] as in `linear_logprob_triton`, whose logprob of the drawn token has the same bits.
    seed int64 [1]; keys int64 [T], the bits of the unsigned sequence keys; positions int64 [T]; temperature a number, or fp32
    [1] or [T] on the device, 0 for greedy (the first of equal logits; its logprob is that at temperature 1). Nothing waits
    for the device, so that a call can be captured in a CUDA graph and replayed with other contents of these tensors.
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
    vectors, numbers = "p_temperature p_logsumexp p_entropy", "T stride_temperature drawing first width"
    types = dict.fromkeys(("p_hidden", "p_weight", "p_out"), pointer)
    types |= dict.fromkeys(vectors.split(), "*fp32") | dict.fromkeys(numbers.split(), "i32")
    types |= dict.fromkeys(("p_g_logprob", "p_g_entropy", "p_g_logsumexp", "p_part", "p_logprob"), "*fp32")
    types |= dict.fromkeys(("p_targets", "p_seed", "p_keys", "p_positions", "p_token"), "*i64") | {"p_part_token": "*i32"}
    free, mma = tuple(numbers.split()), row.dtype == "bf16"
    if row.direction == "backward":
        return [Variant("logprob gradient", _gradient_kernel, types, {"D": D, **row.blocks}, free, mma)]
    splits = triton.cdiv(V, row.blocks["BN"] * row.blocks["TILES"])
    fold = {"SPLITS": splits, "BS": triton.next_power_of_2(splits)}
    return [
        Variant("logprob splits", _split_kernel, types, {"D": D, "V": V, **row.blocks}, free, mma),
        Variant("logprob fold", _fold_kernel, types, fold, free, warps=FOLD_WARPS),
    ]


announce("linear_logprob", _variants)
