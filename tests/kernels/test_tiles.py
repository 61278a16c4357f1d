from __future__ import annotations

import pytest
import torch

from mimosa.kernels.tiles import tiling

CPU = torch.device("cpu")


def test_tiles_are_cut_from_each_sequence_s_own_start() -> None:
    """Lengths 4, 7, 1, 3 in tiles of 3: chunks 2, 3, 1, 1."""
    plan = tiling((0, 4, 11, 12, 15), 3, CPU)
    assert plan.size == 3 and plan.counts == (4, 2, 1) and plan.tiles == 7
    tokens = plan.cut(torch.arange(1.0, 16.0).view(15, 1, 1)).view(7, 3)
    assert tokens.tolist() == [
        [5, 6, 7],
        [1, 2, 3],
        [12, 0, 0],
        [13, 14, 15],
        [8, 9, 10],
        [4, 0, 0],
        [11, 0, 0],
    ]
    assert plan.first.tolist() == [0, 4, 11, 12] and plan.last.tolist() == [3, 10, 11, 14]


def test_the_tile_is_no_longer_than_the_longest_sequence() -> None:
    plan = tiling((0, 2, 7), 64, CPU)
    assert plan.size == 5 and plan.counts == (2,)
    assert plan.order is None and plan.blank is not None
    assert tiling((0, 5, 10), 64, CPU).blank is None


@pytest.mark.parametrize("lengths", [[1], [5, 5, 5], [4, 7, 1, 3], [1, 1, 9, 2, 6]], ids=str)
@pytest.mark.parametrize("chunk_size", [1, 2, 3, 64])
def test_join_is_the_way_back(lengths: list[int], chunk_size: int) -> None:
    offsets = tuple(sum(lengths[:i]) for i in range(len(lengths) + 1))
    plan = tiling(offsets, chunk_size, CPU)
    rows = torch.randn(offsets[-1], 3, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    tiles = plan.cut(rows)
    assert torch.equal(plan.join(tiles), rows)
    for m, j, c in [(0, 0, 0), (plan.tiles - 1, 2, 0)]:
        assert torch.equal(tiles[m, j, c], rows[plan.token.view(plan.tiles, -1)[m, c], j])


def test_cut_and_join_are_adjoint() -> None:
    """<cut(x), y> = <x, cut'(y)>, blank rows included, and the gradient can be differentiated again."""
    plan = tiling((0, 4, 11, 12, 15), 3, CPU)
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(15, 2, 1, generator=generator, dtype=torch.float64, requires_grad=True)
    y = torch.randn(7, 2, 3, 1, generator=generator, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(plan.cut, x) and torch.autograd.gradcheck(plan.join, y)
    assert torch.autograd.gradgradcheck(plan.cut, x) and torch.autograd.gradgradcheck(plan.join, y)


def test_carry_goes_in_order_and_returns_to_the_sequences_order() -> None:
    """A state that notes its chunks as decimal digits: chunk i appends i + 1."""
    plan = tiling((0, 4, 11, 12, 15), 3, CPU)
    start = torch.tensor([[10.0], [20.0], [30.0], [40.0]])
    before, last = plan.carry(start, lambda i, state: state * 10 + i + 1)
    assert before.flatten().tolist() == [20, 10, 30, 40, 201, 101, 2012]
    assert last.flatten().tolist() == [1012, 20123, 301, 401]
