from __future__ import annotations

import math

import pytest
import torch

from mimosa.kernels.rotation import rotate


@pytest.mark.parametrize(
    ("pairing", "expected"),
    [("interleaved", [-2.0, 1.0, -3.0, -4.0, 5.0, 6.0]), ("half", [-4.0, -2.0, 3.0, 1.0, -5.0, 6.0])],
)
def test_pairs_turn_and_the_rest_stays(pairing: str, expected: list[float]) -> None:
    """A quarter turn of the first pair and half a turn of the second."""
    u = torch.arange(1.0, 7.0, dtype=torch.float64)
    turned = rotate(u, torch.tensor([math.pi / 2, math.pi], dtype=torch.float64), pairing)
    assert torch.allclose(turned, torch.tensor(expected, dtype=torch.float64), atol=1e-15)


@pytest.mark.parametrize("pairing", ["interleaved", "half"])
def test_gradients(pairing: str) -> None:
    """Also with angles that are shared by rows, and of the gradient itself."""
    generator = torch.Generator().manual_seed(0)
    u = torch.randn(3, 2, 6, generator=generator, dtype=torch.float64, requires_grad=True)
    theta = torch.randn(3, 1, 2, generator=generator, dtype=torch.float64, requires_grad=True)

    def turned(u: torch.Tensor, theta: torch.Tensor) -> torch.Tensor:
        return rotate(u, theta, pairing)

    assert torch.autograd.gradcheck(turned, (u, theta))
    assert torch.autograd.gradgradcheck(turned, (u, theta))


@pytest.mark.parametrize("pairing", ["interleaved", "half"])
def test_a_product_sees_the_difference_of_angles(pairing: str) -> None:
    generator = torch.Generator().manual_seed(1)
    q, k, near, far = torch.randn(4, 8, generator=generator, dtype=torch.float64)
    near, far = near[:4], far[:4]
    product = rotate(q, near, pairing) @ rotate(k, far, pairing)
    assert torch.allclose(product, rotate(q, near - far, pairing) @ k, rtol=1e-13)


def test_the_input_is_left_alone() -> None:
    u = torch.ones(2, 4)
    rotate(u, torch.ones(2, 2), "half")
    assert torch.equal(u, torch.ones(2, 4))
