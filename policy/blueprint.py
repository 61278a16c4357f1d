"""What an actor needs to build a policy before weights reach it; and how a policy is loaded or initialised."""

from __future__ import annotations

import os
from dataclasses import dataclass

import torch
from transformers import PreTrainedTokenizerFast

from ..configs.schema import ModelConfig
from .config import Mamba3Config
from .mamba3 import Mamba3ForCausalLM
from .weights import cast_for_rollout


@dataclass(frozen=True, slots=True)
class Blueprint:
    """A policy without its weights. Small: it is sent to every actor."""

    config: Mamba3Config
    tokenizer: PreTrainedTokenizerFast
    kernels: str  # backend: auto, reference or triton

    def rollout_model(self, device: str) -> Mamba3ForCausalLM:
        """A model with unset weights in the rollout's dtypes, to be filled by `load_version`."""
        with torch.device("meta"):
            model = Mamba3ForCausalLM(self.config)
        model.to_empty(device=device)
        model.tie_weights()
        model.kernels = self.kernels
        cast_for_rollout(model)
        return model.requires_grad_(False).eval()

    def filled_model(self, device: str, path: str, seed: int) -> Mamba3ForCausalLM:
        """A rollout model with weights: those of the policy at `path`, or drawn from `seed` on the device when it is empty."""
        if path:
            model = load_policy(path, self.config.compute_dtype)
        else:
            torch.manual_seed(seed)
            with torch.device(device):
                model = Mamba3ForCausalLM(self.config)
        model.kernels = self.kernels
        cast_for_rollout(model)
        return model.requires_grad_(False).eval().to(device)

    def learner_model(self, device: str, path: str, seed: int) -> Mamba3ForCausalLM:
        """A model with fp32 parameters: those of the policy at `path`, or drawn from `seed` when it is empty."""
        if path:
            model = load_policy(path, self.config.compute_dtype, self.config.head_dtype)
        else:
            torch.manual_seed(seed)
            model = Mamba3ForCausalLM(self.config)
        model.kernels = self.kernels
        return model.float().to(device)


def load_policy(path: str, compute_dtype: str, head_dtype: str = "") -> Mamba3ForCausalLM:
    """Load a policy folder or hub name with fp32 parameters; head_dtype: the saved one where it is empty.

    Raises ValueError for a path that is none.
    """
    if os.path.sep in path and not os.path.isdir(path) and path.count("/") != 1:
        raise ValueError(f"model.path: got {path}, which is no folder, wanted a policy folder or a hub name")
    config = Mamba3ForCausalLM.read_config(path)
    config.compute_dtype = compute_dtype
    config.head_dtype = head_dtype or config.head_dtype
    return Mamba3ForCausalLM.from_pretrained(path, config=config, dtype=torch.float32)


def policy_config(model: ModelConfig, tokenizer: PreTrainedTokenizerFast) -> Mamba3Config:
    """The configuration of the policy at model.path, or of a new one of the given shape with the tokenizer's vocabulary."""
    if model.path:
        config = Mamba3ForCausalLM.read_config(model.path)
        config.compute_dtype, config.head_dtype = model.dtype, model.head_dtype
        if len(tokenizer) > config.padded_vocab_size:
            raise ValueError(
                f"model.path: {model.path} has {config.padded_vocab_size} token ids, its tokenizer {len(tokenizer)}"
            )
        return config
    return Mamba3Config(
        vocab_size=len(tokenizer), d_model=model.d_model, n_layer=model.n_layer, d_intermediate=model.d_intermediate,
        d_state=model.d_state, headdim=model.headdim, expand=model.expand, ngroups=model.ngroups, is_mimo=model.mimo,
        mimo_rank=model.mimo_rank, rope_fraction=model.rope_fraction, is_outproj_norm=model.is_outproj_norm,
        chunk_size=model.chunk_size, a_activation=model.a_activation, dt_min=model.dt_min, dt_max=model.dt_max,
        compute_dtype=model.dtype, head_dtype=model.head_dtype, pad_token_id=tokenizer.pad_token_id, eos_token_id=tokenizer.eos_token_id,
    )  # fmt: skip
