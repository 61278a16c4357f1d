import numpy as np
import pytest
import torch

from mimosa.kernels import linear_logprob_triton as module
from mimosa.kernels.dispatch import linear_logprob
from mimosa.kernels.linear_logprob_triton import linear_logprob_triton, sample_logprob_triton
from mimosa.kernels.sampling import gumbel_noise

D, V = 37, 203  # four splits of two tiles in the launch table's smallest row, the last one cut off
SEED = 2**40 + 5


def example(T, seed=0, vocab=V):
    g = torch.Generator().manual_seed(seed)
    hidden, weight = torch.randn(T, D, generator=g), torch.randn(vocab, D, generator=g) / 3
    return hidden, weight, torch.randint(vocab, (T,), generator=g)


def in_fp64(hidden, weight, targets, temperature):
    logits = hidden.double() @ weight.double().t() / temperature
    log_p = logits.log_softmax(-1)
    logprob = log_p.gather(-1, targets.unsqueeze(-1)).squeeze(-1)
    return logprob, -(log_p.exp() * log_p).sum(-1), logits.logsumexp(-1)


def names(T, seed=0):
    """Sequence keys (uint64) and positions of T rows, as numpy has them and as the kernel takes them."""
    generator = np.random.default_rng(seed)
    keys, positions = generator.integers(2**64, size=T, dtype=np.uint64), generator.integers(5000, size=T)
    return keys, positions, dict(keys=torch.from_numpy(keys.view(np.int64)), positions=torch.from_numpy(positions))


def draw(hidden, weight, temperature, rows=slice(None), seed=SEED):
    named = {name: x[rows] for name, x in names(len(hidden))[2].items()}
    return sample_logprob_triton(
        hidden[rows], weight, seed=torch.tensor([seed]), temperature=temperature, **named
    )  # fmt: skip


@pytest.mark.parametrize("temperature", [1.0, 0.6, 1.7])
@pytest.mark.parametrize(("T", "vocab"), [(1, 1), (5, 33), (17, V), (3, 512)])
def test_against_fp64(T, vocab, temperature):
    inputs = example(T, vocab=vocab)
    found, wanted = linear_logprob_triton(*inputs, temperature), in_fp64(*inputs, temperature)
    for narrow, exact in zip(found, wanted, strict=True):
        torch.testing.assert_close(narrow, exact.float(), atol=5e-6, rtol=2e-6)


def test_great_logits():
    """Logits of some hundreds: neither the sum nor the entropy may overflow or cancel."""
    hidden, weight, targets = example(9)
    found, wanted = linear_logprob_triton(50 * hidden, weight, targets), in_fp64(50 * hidden, weight, targets, 1.0)
    for narrow, exact in zip(found, wanted, strict=True):
        torch.testing.assert_close(narrow, exact.float(), atol=2e-4, rtol=2e-6)


@pytest.mark.parametrize("T", [1, 3, 17, 64])
def test_a_row_does_not_know_the_others(T):
    hidden, weight, targets = example(70)
    everything = linear_logprob_triton(hidden, weight, targets, 0.7)
    for first in (0, 5):
        rows = slice(first, first + T)
        found = linear_logprob_triton(hidden[rows], weight, targets[rows], 0.7)
        assert all(torch.equal(a, b[rows]) for a, b in zip(found, everything, strict=True))


@pytest.mark.parametrize("slices", [1, 3])
def test_gradients(monkeypatch, slices):
    T = 19
    monkeypatch.setattr(module, "GRADIENTS_AT_ONCE", T * (V // slices))
    hidden, weight, targets = example(T)
    inputs = [hidden.requires_grad_(), weight.requires_grad_()]
    wide = [x.detach().double().requires_grad_() for x in inputs]
    g = torch.randn(3, T, generator=torch.Generator().manual_seed(1)).unbind()
    torch.autograd.backward(tuple(linear_logprob_triton(*inputs, targets, 0.7)), g)
    torch.autograd.backward(in_fp64(*wide, targets, 0.7), [x.double() for x in g])
    for narrow, exact in zip(inputs, wide, strict=True):
        torch.testing.assert_close(narrow.grad, exact.grad.float(), atol=1e-5, rtol=1e-5)


def test_gradients_are_the_same_twice():
    hidden, weight, targets = example(19)
    found = []
    for _ in range(2):
        inputs = [x.clone().requires_grad_() for x in (hidden, weight)]
        linear_logprob_triton(*inputs, targets).logprob.sum().backward()
        found.append([x.grad for x in inputs])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_only_the_wanted_gradient_is_made():
    hidden, weight, targets = example(4)
    linear_logprob_triton(hidden, weight.requires_grad_(), targets).logprob.sum().backward()
    assert hidden.grad is None and weight.grad.abs().sum() > 0


@pytest.mark.parametrize(("T", "temperature"), [(1, 1.0), (3, 2.0), (17, 0.6), (17, 0.0), (64, 1.0)])
def test_the_logprob_of_a_drawn_token_is_the_learners(T, temperature):
    hidden, weight, _ = example(T)
    tokens, logprobs = draw(hidden, weight, temperature)
    learned = linear_logprob_triton(hidden, weight, tokens, temperature or 1.0)
    assert torch.equal(logprobs, learned.logprob)
    assert (tokens.unique().numel() > 1) == (T > 1)


@pytest.fixture(scope="module")
def seventy():
    """Rows, the head's weight, and what is drawn from them in one call at temperature 0.8."""
    hidden, weight, _ = example(70)
    return hidden, weight, draw(hidden, weight, 0.8)


@pytest.mark.parametrize("T", [1, 3, 17, 64])
def test_a_draw_does_not_know_the_others(seventy, T):
    hidden, weight, everything = seventy
    rows = slice(5, 5 + T)
    assert all(torch.equal(a, b[rows]) for a, b in zip(draw(hidden, weight, 0.8, rows), everything, strict=True))


@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_the_drawn_token_is_the_best_with_the_noise_of_its_name(monkeypatch, temperature):
    monkeypatch.setattr(module, "PIECE", 128)  # so that a row has several pieces
    T = 30
    hidden, weight, _ = example(T)
    tokens, _ = draw(hidden, weight, temperature)
    keys, positions, _ = names(T)
    noisy = hidden @ weight.t() / temperature + torch.from_numpy(gumbel_noise(SEED, keys, positions, V))
    best = noisy.topk(2).values
    assert (best[:, 0] - best[:, 1]).min() > 1e-5  # no tie that rounding could turn over
    assert torch.equal(tokens, noisy.argmax(-1))
    other = draw(hidden, weight, temperature, slice(10), seed=SEED + 2**32)[0]
    assert not torch.equal(tokens[:10], other)


def test_greedy_takes_the_first_of_equals(monkeypatch):
    monkeypatch.setattr(module, "PIECE", 128)
    hidden, weight, _ = example(10)
    weight[130:] = weight[:73]  # every logit of the first 73 stands twice, in another piece
    tokens, _ = draw(hidden, weight, 0.0)
    assert torch.equal(tokens, (hidden @ weight[:130].t()).argmax(-1))


def test_a_temperature_for_each_row():
    hidden, weight, targets = example(4)
    temperature = torch.tensor([1.0, 0.5, 0.0, 0.7])
    tokens, logprobs = draw(hidden, weight, temperature)
    learned = linear_logprob_triton(hidden, weight, targets, temperature)
    for i, t in enumerate(temperature):
        one = slice(i, i + 1)
        token, logprob = draw(hidden, weight, t.item(), one)
        assert torch.equal(token, tokens[one]) and torch.equal(logprob, logprobs[one])
        alone = linear_logprob_triton(hidden[one], weight, targets[one], t.item() or 1.0)
        assert all(torch.equal(a, b[one]) for a, b in zip(alone, learned, strict=True))
    assert torch.equal(draw(hidden, weight, torch.tensor([0.5]))[0], draw(hidden, weight, 0.5)[0])


def test_nothing():
    hidden, weight, targets = example(0)
    assert [x.shape for x in linear_logprob_triton(hidden, weight, targets)] == [(0,)] * 3
    assert [x.shape for x in draw(hidden, weight, 1.0)] == [(0,)] * 2
    inputs = hidden.requires_grad_(), weight.requires_grad_()
    linear_logprob_triton(*inputs, targets).logprob.sum().backward()
    assert hidden.grad.shape == (0, D) and torch.equal(weight.grad, torch.zeros(V, D))


def test_the_door_leads_here():
    inputs = example(5)
    logprob, entropy, _ = linear_logprob_triton(*inputs, 0.7)
    found = linear_logprob(*inputs, 0.7, backend="triton")
    assert torch.equal(found[0], logprob) and torch.equal(found[1], entropy)
    for triton, reference in zip(found, linear_logprob(*inputs, 0.7), strict=True):
        torch.testing.assert_close(triton, reference, atol=5e-6, rtol=2e-6)
    with pytest.raises(ValueError, match="backend: 'cuda' came"):
        linear_logprob(*inputs, backend="cuda")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(hidden=torch.zeros(2, 4, 8)), r"^hidden: shape \[2, 4, 8\] came, \[T, D\]"),
        (dict(hidden=torch.zeros(4, 8).double()), r"^hidden: dtype torch.float64 came"),
        (dict(weight=torch.zeros(6, 9)), r"^weight: shape \[6, 9\] came, \[N, 8\]"),
        (dict(weight=torch.zeros(6, 8).bfloat16()), r"^weight: dtype torch.bfloat16 came"),
        (dict(targets=torch.zeros(3).long()), r"^targets: shape \[3\] came, \[4\]"),
        (dict(targets=torch.zeros(4).int()), r"^targets: dtype torch.int32 came"),
        (dict(targets=torch.tensor([0, 1, 6, 2])), r"^targets: 0 .. 6 came, 0 .. 5 wanted"),
        (dict(targets=torch.tensor([0, -1, 5, 2])), r"^targets: -1 .. 5 came"),
        (dict(temperature=0.0), r"^temperature: 0.0 came, a number > 0"),
        (dict(temperature=float("nan")), r"^temperature: nan came"),
        (dict(temperature=torch.ones(3)), r"^temperature: shape \[3\] came, \[4\]"),
        (dict(temperature=torch.ones(4).double()), r"^temperature: dtype torch.float64 came"),
    ],
)
def test_wrong_arguments_of_the_learner(change, message):
    arguments = dict(hidden=torch.zeros(4, 8), weight=torch.zeros(6, 8), targets=torch.zeros(4).long(), temperature=1.0)
    with pytest.raises(ValueError, match=message):
        linear_logprob_triton(**(arguments | change))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(seed=torch.zeros(2).long()), r"^seed: shape \[2\] came, \[1\]"),
        (dict(seed=torch.zeros(1)), r"^seed: dtype torch.float32 came"),
        (dict(keys=torch.zeros(3).long()), r"^keys: shape \[3\] came, \[4\]"),
        (dict(positions=torch.zeros(4)), r"^positions: dtype torch.float32 came"),
        (dict(positions=torch.zeros(4, dtype=torch.int64, device="meta")), r"^positions: device meta came"),
        (dict(temperature=-0.5), r"^temperature: -0.5 came, a number >= 0"),
    ],
)
def test_wrong_arguments_of_the_draw(change, message):
    whole = torch.zeros(4).long()
    arguments = dict(hidden=torch.zeros(4, 8), weight=torch.zeros(6, 8), temperature=1.0)
    arguments |= dict(seed=torch.zeros(1).long(), keys=whole, positions=whole)
    with pytest.raises(ValueError, match=message):
        sample_logprob_triton(**(arguments | change))
