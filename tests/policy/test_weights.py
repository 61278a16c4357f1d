import dataclasses

import pytest
import torch
from builders import tiny_config

from mimosa.policy.mamba3 import Mamba3ForCausalLM
from mimosa.policy.weights import (
    cast_for_rollout,
    checksum,
    load_version,
    pack_version,
    rollout_dtypes,
    travelling_parameters,
)


def model_of(seed: int, dtype: str = "bf16") -> Mamba3ForCausalLM:
    torch.manual_seed(seed)
    return Mamba3ForCausalLM(tiny_config(compute_dtype=dtype))


def version_of(model: Mamba3ForCausalLM):
    return pack_version(1, travelling_parameters(model), rollout_dtypes(model))


@pytest.mark.parametrize("dtype", ["bf16", "fp32", ""])
def test_what_arrives_is_the_cast_of_what_was_sent(dtype):
    sender, receiver = model_of(0, dtype), model_of(1, dtype)
    cast_for_rollout(receiver)
    version = version_of(sender)
    for array in version.tensors.values():
        array.setflags(write=False)  # as they come out of the object store
    load_version(receiver, version)
    for name, p in receiver.named_parameters():
        sent = dict(sender.named_parameters())[name]
        assert torch.equal(p, sent.to(p.dtype)), name
    linear = receiver.backbone.layers[0].mixer.in_proj.weight
    assert linear.dtype == (torch.bfloat16 if dtype == "bf16" else torch.float32)
    assert receiver.backbone.layers[0].mixer.dt_bias.dtype == torch.float32
    assert receiver.lm_head.weight.dtype == torch.float32


def test_a_tied_head_goes_once():
    assert "lm_head.weight" not in version_of(model_of(0)).tensors


def test_checksum_sees_a_flipped_bit_a_swap_and_a_name():
    base = {"a": torch.arange(6, dtype=torch.float32), "b": torch.zeros(2, 3)}
    reference = checksum(base.items())
    flipped = {**base, "a": torch.tensor([0, 1, 2, 3, 4, 5.0000005])}
    swapped = {**base, "a": torch.tensor([0, 1, 2, 3, 5.0, 4])}
    renamed = {"a": base["a"], "c": base["b"]}
    reshaped = {**base, "b": torch.zeros(3, 2)}
    sums = [checksum(t.items()) for t in (flipped, swapped, renamed, reshaped)]
    assert reference not in sums
    assert len(set(sums)) == 4
    assert checksum(reversed(base.items())) == reference


def test_damage_on_the_way_is_noticed():
    sender, receiver = model_of(0), model_of(1)
    cast_for_rollout(receiver)
    version = version_of(sender)
    arrays = dict(version.tensors)
    name = "backbone.layers.0.mixer.out_proj.weight"
    arrays[name] = arrays[name].copy()
    arrays[name][3, 5] ^= 1
    with pytest.raises(ValueError, match="policy version 1: checksum"):
        load_version(receiver, dataclasses.replace(version, tensors=arrays))
    del arrays[name]
    with pytest.raises(ValueError, match=f"tensor {name} is on one side only"):
        load_version(receiver, dataclasses.replace(version, tensors=arrays))
