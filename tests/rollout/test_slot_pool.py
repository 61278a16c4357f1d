import pytest
import torch
from engines import policy

from mimosa.rollout import slots as slot_rules
from mimosa.rollout.slots import SlotPool, free_memory, make_slots

CPU = torch.device("cpu")


def test_the_lowest_slots_are_given_out_first():
    pool = SlotPool(5)
    assert [pool.take() for _ in range(4)] == [0, 1, 2, 3]
    for slot in (2, 0, 3):
        pool.release(slot)
    assert (pool.free, pool.lowest(), pool.free_below(3)) == (4, 0, 2)
    assert [pool.take() for _ in range(4)] == [0, 2, 3, 4]
    assert (pool.free, pool.lowest(), pool.free_below(9)) == (0, None, 0)


def test_an_automatic_number_follows_from_the_memory(monkeypatch):
    model = policy()
    size = model.slots(1).bytes_per_slot
    monkeypatch.setattr(slot_rules, "free_memory", lambda device: 100 * size)
    assert make_slots(model.slots, 0, CPU, 0.5).capacity == 50
    assert make_slots(model.slots, 99, CPU, 0.5).capacity == 99
    with pytest.raises(ValueError, match=r"rollout.slots: got 100, wanted at most 99: a slot takes 0\.\d\d MiB"):
        make_slots(model.slots, 100, CPU, 0.5)
    with pytest.raises(ValueError, match=r"rollout.slots: got 0 \(automatic\), but rollout.memory_share=0.001"):
        make_slots(model.slots, 0, CPU, 0.001)
    monkeypatch.setattr(slot_rules, "free_memory", lambda device: 10_000 * size)
    assert make_slots(model.slots, 0, CPU, 0.5).capacity == slot_rules.MOST_SLOTS["cpu"]


def test_free_memory_is_what_the_machine_and_the_container_have(monkeypatch, tmp_path):
    monkeypatch.setattr(slot_rules, "CGROUP", tmp_path)
    machine = free_memory(CPU)
    assert 1 << 20 < machine < 1 << 50
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "memory.current").write_text("4096\n")
    assert free_memory(CPU) > 1 << 20
    (tmp_path / "memory.max").write_text("14096\n")
    assert free_memory(CPU) == 10_000
    (tmp_path / "memory.max").write_text("4000\n")
    assert free_memory(CPU) == 0
