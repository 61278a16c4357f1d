"""From the configuration to a policy: what a loaded one takes from the run and what it keeps of its own."""

from __future__ import annotations

import torch
from builders import tiny_config

from mimosa.configs.schema import ModelConfig
from mimosa.policy.blueprint import Blueprint, load_policy, policy_config
from mimosa.policy.mamba3 import Mamba3ForCausalLM
from mimosa.policy.tokenizer import chars_tokenizer


def test_the_run_says_in_which_dtypes_a_policy_computes(tmp_path):
    """Of a new policy and of a loaded one, for rollout and learner alike; an export keeps what was saved."""
    tokenizer = chars_tokenizer("0123456789+=")
    assert policy_config(ModelConfig(), tokenizer).head_dtype == "fp32"
    new = policy_config(ModelConfig(head_dtype="bf16", dtype="bf16"), tokenizer)
    assert (new.head_dtype, new.compute_dtype) == ("bf16", "bf16")
    Mamba3ForCausalLM(tiny_config(head_dtype="bf16")).save_pretrained(tmp_path)
    assert load_policy(str(tmp_path), "").lm_head.operands == torch.bfloat16
    for dtype, operands in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        config = policy_config(ModelConfig(path=str(tmp_path), head_dtype=dtype), tokenizer)
        blueprint = Blueprint(config, tokenizer, "auto")
        assert blueprint.rollout_model("cpu").lm_head.operands == operands
        assert blueprint.learner_model("cpu", str(tmp_path), 0).lm_head.operands == operands
