import pytest
import torch

from mimosa.kernels.fixed_matmul import fixed_matmul

SHAPES = [(17, 37, 45), (64, 64, 128), (3, 130, 7), (33, 1, 1)]


def example(M, K, N, seed=0):
    g = torch.Generator().manual_seed(seed)
    return torch.randn(M, K, generator=g), torch.randn(N, K, generator=g)


@pytest.mark.parametrize("M,K,N", SHAPES)
def test_against_fp64(M, K, N):
    x, w = example(M, K, N)
    torch.testing.assert_close(fixed_matmul(x, w), (x.double() @ w.double().t()).float(), atol=2e-5, rtol=1e-5)


def test_the_tiles_of_a_great_weight():
    """The launch table's row for weights of a real model: other tiles, and sums of more than a thousand products."""
    x, w = example(70, 1100, 700)
    everything = fixed_matmul(x, w)
    torch.testing.assert_close(everything, (x.double() @ w.double().t()).float(), atol=2e-4, rtol=1e-5)
    for M in (1, 3, 17, 64):
        assert torch.equal(fixed_matmul(x[5 : 5 + M], w), everything[5 : 5 + M])


@pytest.mark.parametrize("M", [1, 3, 17, 64])
@pytest.mark.parametrize("first", [0, 5])
def test_a_row_does_not_know_the_others(M, first):
    x, w = example(80, 70, 45)
    everything = fixed_matmul(x, w)
    assert torch.equal(fixed_matmul(x[first : first + M], w), everything[first : first + M])


def test_a_row_that_is_not_finite_stays_alone():
    x, w = example(20, 37, 45)
    clean = fixed_matmul(x, w)
    x[3] = float("nan")
    dirty = fixed_matmul(x, w)
    assert dirty[3].isnan().all()
    keep = torch.arange(20) != 3
    assert torch.equal(dirty[keep], clean[keep])


def test_leading_dimensions_views_and_nothing():
    x, w = example(24, 37, 45)
    flat = fixed_matmul(x, w)
    assert torch.equal(fixed_matmul(x.view(2, 3, 4, 37), w), flat.view(2, 3, 4, 45))
    assert torch.equal(fixed_matmul(x.t().contiguous().t(), w), flat)
    assert torch.equal(fixed_matmul(torch.cat([x, x], 1)[:, :37], w), flat)
    assert torch.equal(fixed_matmul(x[0], w), flat[0])
    assert fixed_matmul(x[:0], w).shape == (0, 45)


def test_gradients():
    x, w = (t.requires_grad_() for t in example(19, 37, 45))
    g = torch.randn(19, 45, generator=torch.Generator().manual_seed(1))
    fixed_matmul(x, w).backward(g)
    torch.testing.assert_close(x.grad, (g.double() @ w.detach().double()).float(), atol=2e-5, rtol=1e-5)
    torch.testing.assert_close(w.grad, (g.double().t() @ x.detach().double()).float(), atol=2e-5, rtol=1e-5)


def test_a_gradient_that_is_not_wanted_is_not_made():
    x, w = example(4, 8, 6)
    w.requires_grad_()
    fixed_matmul(x, w).sum().backward()
    assert x.grad is None and w.grad.shape == (6, 8)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x, w: (x.double(), w), r"^x: dtype torch.float64 came"),
        (lambda x, w: (x, w.bfloat16()), r"^weight: dtype torch.bfloat16 came, torch.float32 wanted"),
        (lambda x, w: (x, w[:, :3]), r"^weight: shape \[6, 3\] came, \[N, 8\]"),
        (lambda x, w: (x, w[0]), r"^weight: shape \[8\] came"),
        (lambda x, w: (x[:, :0], w), r"^x: shape \[4, 0\] came"),
        (lambda x, w: (x.to("meta"), w.to("meta")), r"^x: device meta came, a CUDA device wanted"),
        (lambda x, w: (x, w.to("meta")), r"^weight: device meta came, cpu wanted"),
    ],
)
def test_wrong_arguments(change, message):
    with pytest.raises(ValueError, match=message):
        fixed_matmul(*change(*example(4, 8, 6)))


def test_wrong_out_dtype():
    with pytest.raises(ValueError, match=r"^out_dtype: torch.float16 came"):
        fixed_matmul(*example(4, 8, 6), out_dtype=torch.float16)
