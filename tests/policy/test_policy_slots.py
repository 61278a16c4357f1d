import pytest
import torch
from builders import tiny_config

from mimosa.policy.mamba3 import Mamba3ForCausalLM
from mimosa.policy.slots import ReferenceSlots, run_start

LENGTHS = (1, 31, 32, 33, 70)  # around the chunk of 32 tokens


@pytest.fixture(scope="module")
def model() -> Mamba3ForCausalLM:
    torch.manual_seed(0)
    return Mamba3ForCausalLM(tiny_config()).eval()


def prompts() -> list[torch.Tensor]:
    return [torch.randint(0, 17, (n,), generator=torch.Generator().manual_seed(n)) for n in LENGTHS]


def prefilled(model: Mamba3ForCausalLM, slots: list[int], capacity: int = 9) -> ReferenceSlots:
    held = model.slots(capacity)
    bounds = torch.tensor([0, *LENGTHS], dtype=torch.int32).cumsum(0, dtype=torch.int32)
    held.prefill(torch.cat(prompts()), bounds, slots)
    return held


def token(value: int, rows: int) -> torch.Tensor:
    return torch.full((rows,), value)


def last_hidden(model: Mamba3ForCausalLM, ids: torch.Tensor) -> torch.Tensor:
    return model.backbone(ids[None], None, backend="reference")[0][0, -1]


@torch.no_grad()
@pytest.mark.parametrize("order", [[0, 1, 2, 3, 4], [7, 2, 5, 0, 8]], ids=["run", "scattered"])
def test_decode_goes_on_from_the_prompt(model, order):
    held = prefilled(model, order)
    for step in (3, 4):
        hidden = held.decode(token(step, 5), torch.tensor(order, dtype=torch.int32))
    for row, ids in zip(hidden, prompts(), strict=True):
        torch.testing.assert_close(
            row, last_hidden(model, torch.cat([ids, torch.tensor([3, 4])])), atol=2e-5, rtol=1e-4
        )


@torch.no_grad()
def test_pieces_of_a_prompt_are_the_prompt(model):
    ids = prompts()[-1]
    whole, pieces = model.slots(2), model.slots(2)
    whole.prefill(ids, torch.tensor([0, 70], dtype=torch.int32), [1])
    for start, end in ((0, 1), (1, 33), (33, 70)):
        pieces.prefill(ids[start:end], torch.tensor([0, end - start], dtype=torch.int32), [1])
    for name, part in whole.export(1).items():
        torch.testing.assert_close(pieces.export(1)[name], part, atol=2e-5, rtol=1e-4)


@torch.no_grad()
def test_nobody_changes_nothing(model):
    held = prefilled(model, [0, 1, 2, 3, 4])
    before = {slot: held.export(slot) for slot in range(9)}
    held.decode(token(3, 4), torch.tensor([-1, 2, -1, 4], dtype=torch.int32))
    for slot in (0, 1, 3, 5, 6, 7, 8):
        assert all(torch.equal(part, before[slot][name]) for name, part in held.export(slot).items()), slot
    assert not torch.equal(held.export(2)["0.h"], before[2]["0.h"])


@torch.no_grad()
def test_a_slot_copied_zeroed_or_moved_to_other_slots_is_the_same_bits(model):
    held = prefilled(model, [0, 1, 2, 3, 4])
    held.copy(4, [5, 8, 1])
    elsewhere = model.slots(2)
    elsewhere.import_(1, held.export(4))
    for found in (held.export(5), held.export(8), held.export(1), elsewhere.export(1)):
        assert all(torch.equal(part, found[name]) for name, part in held.export(4).items())
    held.zero([4, 0])
    assert all(not part.any() for slot in (0, 4) for part in held.export(slot).values())
    assert held.export(8)["0.h"].any()


def test_bytes_of_a_slot_are_those_of_its_tensors(model):
    held = model.slots(3)
    exported = held.export(0)
    assert held.bytes_per_slot == sum(part.numel() * part.element_size() for part in exported.values())


@pytest.mark.parametrize(
    ("numbers", "first"),
    [([3, 4, 5], 3), ([0], 0), ([3, 5, 4], None), ([-1, 0, 1], None), ([0, -1, 2], None), ([], None)],
)
def test_runs(numbers, first):
    assert run_start(torch.tensor(numbers, dtype=torch.int32)) == first


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (lambda model: model.slots(0), "slots: got 0, wanted at least 1"),
        (lambda model: model.slots(1, "fast"), "decode mode: got 'fast'"),
        (lambda model: model.slots(2).zero([2]), "slots: got 2, wanted 0 to 1"),
        (lambda model: model.slots(2).import_(0, {}), "exported.0.theta: got nothing"),
        (lambda model: model.slots(2).import_(0, {**model.slots(2).export(0), "x": torch.zeros(1)}), "exported.x: got"),
    ],
    ids=["capacity", "mode", "range", "missing part", "unknown part"],
)
def test_what_cannot_be_is_named(model, act, message):
    with pytest.raises(ValueError, match=message):
        act(model)
