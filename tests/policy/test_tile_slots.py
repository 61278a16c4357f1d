"""The policy on the Triton kernels: its gradients, its slots, and that a sampled token's logprob is the learner's, bit for bit."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from mimosa.policy.config import Mamba3Config
from mimosa.policy.mamba3 import Mamba3ForCausalLM

KINDS = {
    "siso": dict(is_mimo=False, is_outproj_norm=True, rope_fraction=1.0),
    "mimo": dict(is_mimo=True, mimo_rank=2),
}
C = 3
SEED, TEMPERATURE = 5, 0.8


def policy(kind: str, kernels: str = "triton", head_dtype: str = "fp32") -> Mamba3ForCausalLM:
    torch.manual_seed(0)
    config = Mamba3Config(
        vocab_size=19, d_model=32, n_layer=2, d_intermediate=100, d_state=16, headdim=16, expand=1, chunk_size=C,
        initializer_range=0.1, head_dtype=head_dtype, **KINDS[kind],
    )  # fmt: skip
    model = Mamba3ForCausalLM(config).eval()
    model.kernels = kernels
    return model


def tokens(count: int, seed: int = 1) -> Tensor:
    return torch.randint(0, 19, (count,), generator=torch.Generator().manual_seed(seed))


def continued(
    model: Mamba3ForCausalLM, prompts: list[Tensor], steps: int, mode: str = "replay"
) -> tuple[Tensor, Tensor]:
    """Tokens [steps, n] drawn after the prompts and their logprobs, by slots in odd order, with nobody in between."""
    slots, head = model.slots(4, mode), model.head()
    places = [3, 0, 2][: len(prompts)]
    bodies = [p[:-1] for p in prompts]
    slots.prefill(torch.cat(bodies), torch.tensor([0, *map(len, bodies)]).cumsum(0).int(), places)
    last = torch.stack([p[-1] for p in prompts])
    named = torch.tensor([places[0], -1, *places[1:]], dtype=torch.int32)
    keys, seed, drawn, logprobs = torch.arange(len(named)), torch.tensor([SEED]), [], []
    rows = [0, *range(2, len(named))]
    current = torch.zeros(len(named), dtype=torch.int64)
    current[rows] = last
    for t in range(steps):
        hidden = slots.decode(current, named)
        current, logprob = head.draw(hidden, seed, keys, torch.full_like(keys, t), TEMPERATURE)
        drawn.append(current[rows])
        logprobs.append(logprob[rows])
    return torch.stack(drawn), torch.stack(logprobs)


@pytest.mark.parametrize("kind", KINDS)
def test_a_drawn_token_s_logprob_is_the_learner_s_bit_for_bit(kind: str) -> None:
    """Prompts that end before, on and after a chunk's edge, packed on the learner's side, over two edges more."""
    model = policy(kind)
    prompts = [tokens(n, seed=n) for n in (C, C + 1, 2 * C + 2)]
    drawn, logprobs = continued(model, prompts, 2 * C + 1)
    whole = [torch.cat([p, drawn[:, i]]) for i, p in enumerate(prompts)]
    bounds = torch.tensor([0, *(len(w) - 1 for w in whole)]).cumsum(0).int()
    inputs, targets = torch.cat([w[:-1] for w in whole]), torch.cat([w[1:] for w in whole])
    learned = model(inputs[None], cu_seqlens=bounds, targets=targets[None], temperature=TEMPERATURE).logprobs[0]
    for i, p in enumerate(prompts):
        mine = learned[bounds[i] : bounds[i + 1]][len(p) - 1 :]
        assert torch.equal(mine, logprobs[:, i]), i
    assert len({*drawn.flatten().tolist()}) > 5  # not one token all over


def test_a_head_in_bf16_rounds_its_operands_alone() -> None:
    """Logits are those of rounded hidden states and weights, summed in fp32."""
    model = policy("siso", "reference", "bf16")
    hidden = torch.randn(3, 32, generator=torch.Generator().manual_seed(2))
    weight = model.lm_head.weight[:19].bfloat16().float()
    logits = model.lm_head(hidden)
    assert torch.equal(logits, hidden.bfloat16().float() @ weight.T) and logits.dtype == torch.float32
    exact = policy("siso", "reference").lm_head(hidden)
    assert 0 < (logits - exact).abs().max() < 1e-2 * exact.abs().max()
    logprobs, _ = model.lm_head(hidden, torch.tensor([1, 0, 18]), 0.7)
    expected = (logits / 0.7).log_softmax(-1).gather(1, torch.tensor([[1], [0], [18]]))[:, 0]
    torch.testing.assert_close(logprobs, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("mode", ["replay", "recurrent"])
def test_nobody_s_row_changes_no_slot(mode: str) -> None:
    model = policy("mimo")
    slots = model.slots(3, mode)
    slots.prefill(tokens(C + 2), torch.tensor([0, C, C + 2], dtype=torch.int32), [0, 2])
    before = [slots.export(slot) for slot in range(3)]
    slots.decode(tokens(3), torch.tensor([-1, 2, -1], dtype=torch.int32))
    for slot, same in ((0, True), (1, True), (2, False)):
        parts = slots.export(slot)
        assert all(torch.equal(parts[name], x) for name, x in before[slot].items()) == same, slot


@pytest.mark.parametrize("kind", KINDS)
def test_replay_is_the_recurrence(kind: str) -> None:
    prompts = [tokens(4), tokens(2, seed=2)]
    model = policy(kind)
    drawn, logprobs = continued(model, prompts, C + 2)
    same, others = continued(model, prompts, C + 2, "recurrent")
    assert torch.equal(drawn, same)
    assert (logprobs - others).abs().max() < 2e-5


@pytest.mark.parametrize("kind", KINDS)
def test_forward_and_gradients_are_the_reference_s(kind: str) -> None:
    ids, targets, bounds = tokens(11)[None], tokens(11, seed=3)[None], torch.tensor([0, 1, 7, 11], dtype=torch.int32)
    found = []
    for kernels in ("triton", "reference"):
        model = policy(kind, kernels)
        out = model(ids, cu_seqlens=bounds, targets=targets, temperature=0.7)
        parameters = dict(model.named_parameters())
        loss = (out.logprobs + 0.1 * out.entropy).sum()
        found.append((out.logprobs, dict(zip(parameters, torch.autograd.grad(loss, parameters.values()), strict=True))))
    (ours, gradients), (theirs, expected) = found
    assert (ours - theirs).abs().max() < 2e-5
    for name, gradient in gradients.items():
        assert (gradient - expected[name]).abs().max() <= 1e-4 * expected[name].abs().max(), name


@pytest.mark.parametrize("mode", ["replay", "recurrent"])
def test_a_slot_goes_on_elsewhere(mode: str) -> None:
    """Copied, and exported and imported by other slots of the policy; prefilled in two pieces."""
    model = policy("mimo")
    slots, elsewhere = model.slots(4, mode), model.slots(2, mode)
    ids = tokens(2 * C)
    slots.prefill(ids[:2], torch.tensor([0, 2], dtype=torch.int32), [1])
    slots.prefill(ids[2:], torch.tensor([0, len(ids) - 2], dtype=torch.int32), [1])
    slots.copy(1, [3, 0])
    elsewhere.import_(1, slots.export(1))
    for t in range(2):
        all_three = slots.decode(ids[t].repeat(3), torch.tensor([0, 1, 3], dtype=torch.int32))
        alone = elsewhere.decode(ids[t : t + 1], torch.tensor([1], dtype=torch.int32))
        assert torch.equal(all_three, alone.expand(3, -1))
    slots.zero([0])
    with pytest.raises(ValueError, match=r"slots: (got 4|slot 4 came), (wanted 0 to 3|0 to 3 wanted)"):
        slots.prefill(ids, torch.tensor([0, len(ids)], dtype=torch.int32), [4])
    with pytest.raises(ValueError, match="exported"):
        elsewhere.import_(0, {})
