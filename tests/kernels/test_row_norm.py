import pytest
import torch

from mimosa.kernels.row_norm import add_row_norm, row_norm

EPS = 1e-5


def example(T, D, seed=0):
    g = torch.Generator().manual_seed(seed)
    return 3 * torch.randn(T, D, generator=g), torch.randn(T, D, generator=g), torch.rand(D, generator=g) + 0.5


def in_fp64(x, weight):
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + EPS) * weight


@pytest.mark.parametrize("T,D", [(1, 1), (7, 37), (70, 128), (3, 1000)])
def test_against_fp64(T, D):
    x, residual, weight = example(T, D)
    torch.testing.assert_close(row_norm(x, weight, EPS), in_fp64(x.double(), weight).float(), atol=2e-6, rtol=2e-6)
    out, total = add_row_norm(x, residual, weight, EPS)
    assert torch.equal(total, x + residual)
    torch.testing.assert_close(out, in_fp64(total.double(), weight).float(), atol=2e-6, rtol=2e-6)


@pytest.mark.parametrize("T", [1, 3, 17, 64])
def test_a_row_does_not_know_the_others(T):
    x, residual, weight = example(80, 75)
    alone, (together, _) = row_norm(x, weight, EPS), add_row_norm(x, residual, weight, EPS)
    for first in (0, 5):
        rows = slice(first, first + T)
        assert torch.equal(row_norm(x[rows], weight, EPS), alone[rows])
        assert torch.equal(add_row_norm(x[rows], residual[rows], weight, EPS)[0], together[rows])


def test_the_sum_is_normed_as_a_row_of_its_own():
    x, residual, weight = example(9, 75)
    assert torch.equal(add_row_norm(x, residual, weight, EPS)[0], row_norm(x + residual, weight, EPS))


@pytest.mark.parametrize("T,D", [(7, 37), (70, 128)])
def test_gradients(T, D):
    inputs = [t.requires_grad_() for t in example(T, D)]
    wide = [t.detach().double().requires_grad_() for t in inputs]
    g_out, g_total, _ = example(T, D, seed=1)
    torch.autograd.backward(add_row_norm(*inputs, EPS), (g_out, g_total))
    total = wide[0] + wide[1]
    torch.autograd.backward((in_fp64(total, wide[2]), total), (g_out.double(), g_total.double()))
    for narrow, exact in zip(inputs, wide, strict=True):
        torch.testing.assert_close(narrow.grad, exact.grad.float(), atol=2e-5, rtol=2e-5)


def test_gradients_without_a_residual():
    (x, _, weight), (g, _, _) = example(70, 37), example(70, 37, seed=1)
    inputs = [t.requires_grad_() for t in (x, weight)]
    wide = [t.detach().double().requires_grad_() for t in inputs]
    row_norm(*inputs, EPS).backward(g)
    in_fp64(*wide).backward(g.double())
    for narrow, exact in zip(inputs, wide, strict=True):
        torch.testing.assert_close(narrow.grad, exact.grad.float(), atol=2e-5, rtol=2e-5)


def test_leading_dimensions_and_nothing():
    x, residual, weight = example(6, 37)
    flat = row_norm(x, weight, EPS)
    assert torch.equal(row_norm(x.view(2, 3, 37), weight, EPS), flat.view(2, 3, 37))
    out, total = add_row_norm(x.view(2, 3, 37), residual.view(2, 3, 37), weight, EPS)
    assert out.shape == total.shape == (2, 3, 37)
    assert row_norm(x[:0], weight, EPS).shape == (0, 37)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(x=torch.zeros(4, 8).half()), r"^x: dtype torch.float16 came"),
        (dict(x=torch.zeros(4, 0)), r"^x: shape \[4, 0\] came"),
        (dict(weight=torch.ones(7)), r"^weight: shape \[7\] came, \[8\] wanted"),
        (dict(weight=torch.ones(8).double()), r"^weight: dtype torch.float64 came"),
        (dict(residual=torch.zeros(4, 9)), r"^residual: shape \[4, 9\] came, \[4, 8\] wanted"),
        (dict(residual=torch.zeros(4, 8, device="meta")), r"^residual: device meta came"),
        (dict(out_dtype=torch.int32), r"^out_dtype: torch.int32 came"),
    ],
)
def test_wrong_arguments(change, message):
    arguments = dict(x=torch.zeros(4, 8), residual=torch.zeros(4, 8), weight=torch.ones(8), eps=EPS) | change
    with pytest.raises(ValueError, match=message):
        add_row_norm(**arguments)
