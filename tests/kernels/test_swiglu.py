import pytest
import torch
import torch.nn.functional as F

from mimosa.kernels.swiglu import swiglu


def example(T, width, seed=0):
    return 2 * torch.randn(T, 2 * width, generator=torch.Generator().manual_seed(seed))


def in_fp64(x):
    value, gate = x.chunk(2, dim=-1)
    return value * F.silu(gate)


@pytest.mark.parametrize("T,width", [(1, 1), (5, 37), (3, 1100)])
def test_against_fp64(T, width):
    x = example(T, width)
    torch.testing.assert_close(swiglu(x), in_fp64(x.double()).float(), atol=1e-6, rtol=2e-6)


@pytest.mark.parametrize("T", [1, 3, 17])
def test_a_row_does_not_know_the_others(T):
    x = example(20, 37)
    assert torch.equal(swiglu(x[2 : 2 + T]), swiglu(x)[2 : 2 + T])


def test_gradients():
    x = example(5, 37).requires_grad_()
    wide = x.detach().double().requires_grad_()
    g = torch.randn(5, 37, generator=torch.Generator().manual_seed(1))
    swiglu(x).backward(g)
    in_fp64(wide).backward(g.double())
    torch.testing.assert_close(x.grad, wide.grad.float(), atol=2e-6, rtol=2e-6)


@pytest.mark.filterwarnings("ignore:overflow")
def test_great_gates():
    """exp(100) overflows fp32; the function does not."""
    x = torch.tensor([[3.0, 3.0, -100.0, 100.0]], requires_grad=True)
    out = swiglu(x)
    out.sum().backward()
    assert torch.equal(out, torch.tensor([[0.0, 300.0]]))
    assert torch.equal(x.grad, torch.tensor([[0.0, 100.0, 0.0, 3.0]]))


def test_leading_dimensions_and_nothing():
    x = example(6, 4)
    assert torch.equal(swiglu(x.view(2, 3, 8)), swiglu(x).view(2, 3, 4))
    assert swiglu(x[:0]).shape == (0, 4)


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (torch.zeros(3, 5), r"^x: shape \[3, 5\] came, \[..., 2F\]"),
        (torch.zeros(3, 0), r"^x: shape \[3, 0\] came"),
        (torch.zeros(3, 4).double(), r"^x: dtype torch.float64 came"),
        (torch.zeros(3, 4, device="meta"), r"^x: device meta came"),
    ],
)
def test_wrong_arguments(x, message):
    with pytest.raises(ValueError, match=message):
        swiglu(x)
