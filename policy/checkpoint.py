"""Policies on disk: Hugging Face folders, and the format of state-spaces/mamba in and out.

SPEC is docs/mamba3.md.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers.utils import cached_file

from .config import Mamba3Config
from .hub import bounded_hub

STATE_SPACES_WEIGHTS = "pytorch_model.bin"
EXTRAS = "mimosa.json"  # what state-spaces' config.json has no field for, beside it
SSM_FIELDS = {  # ssm_cfg field: our field
    "d_state": "d_state", "headdim": "headdim", "expand": "expand", "ngroups": "ngroups", "is_mimo": "is_mimo",
    "mimo_rank": "mimo_rank", "rope_fraction": "rope_fraction", "chunk_size": "chunk_size",
    "is_outproj_norm": "is_outproj_norm", "A_floor": "a_floor", "dt_min": "dt_min", "dt_max": "dt_max",
    "dt_init_floor": "dt_init_floor",
}  # fmt: skip
TOP_FIELDS = {  # MambaConfig field: our field
    "d_model": "d_model", "n_layer": "n_layer", "d_intermediate": "d_intermediate", "vocab_size": "vocab_size",
    "pad_vocab_size_multiple": "pad_vocab_size_multiple", "residual_in_fp32": "residual_in_fp32",
    "tie_embeddings": "tie_word_embeddings",
}  # fmt: skip


def find_file(source: str, name: str) -> str | None:
    """Path of a checkpoint's file, in a folder or (downloaded) of a hub repository; None when it has none."""
    if os.path.isdir(source):
        path = os.path.join(source, name)
        return path if os.path.isfile(path) else None
    with bounded_hub():
        found: str | None = cached_file(
            source, name, _raise_exceptions_for_gated_repo=False, _raise_exceptions_for_missing_entries=False,
            _raise_exceptions_for_connection_errors=False,
        )  # fmt: skip
    return found


def is_state_spaces(config: dict[str, Any]) -> bool:
    """Whether a config.json is one of state-spaces/mamba rather than of transformers."""
    return "ssm_cfg" in config and "model_type" not in config


def state_spaces_config(config: dict[str, Any], extras: dict[str, Any]) -> Mamba3Config:
    """Translate state-spaces' config.json. Raises ValueError naming what this model does not have."""
    ssm = dict(config["ssm_cfg"])
    if ssm.pop("layer", "Mamba1") != "Mamba3":
        raise ValueError(f"ssm_cfg.layer: got {config['ssm_cfg'].get('layer', 'Mamba1')!r}, wanted 'Mamba3'")
    if config.get("attn_layer_idx"):
        raise ValueError("attn_layer_idx: got a hybrid with attention layers, wanted a pure Mamba-3 model")
    fields = {ours: ssm[theirs] for theirs, ours in SSM_FIELDS.items() if theirs in ssm}
    fields |= {ours: config[theirs] for theirs, ours in TOP_FIELDS.items() if theirs in config}
    translated: Mamba3Config = Mamba3Config.from_dict(fields | extras)
    return translated


def read_state_spaces(source: str, config: dict[str, Any]) -> tuple[Mamba3Config, dict[str, Tensor]]:
    """Configuration and tensors of a checkpoint in state-spaces' format (config.json + pytorch_model.bin)."""
    extras_file, weights_file = find_file(source, EXTRAS), find_file(source, STATE_SPACES_WEIGHTS)
    extras = json.loads(Path(extras_file).read_text()) if extras_file else {}
    if weights_file is None:
        raise ValueError(f"{source}: got no {STATE_SPACES_WEIGHTS} beside its config.json")
    tensors: dict[str, Tensor] = torch.load(weights_file, map_location="cpu", weights_only=True)
    return state_spaces_config(config, extras), tensors


def check_shapes(expected: Mapping[str, Tensor], found: Mapping[str, tuple[int, ...]], source: str) -> None:
    """Raise ValueError naming the first tensor that is missing, unknown or of another shape."""
    for name in sorted(expected.keys() | found.keys()):
        if name not in found:
            raise ValueError(f"{source}: tensor {name} is missing")
        if name not in expected:
            raise ValueError(f"{source}: tensor {name} is not one of this model's")
        if tuple(found[name]) != tuple(expected[name].shape):
            raise ValueError(
                f"{source}: tensor {name} has shape {tuple(found[name])}, wanted {tuple(expected[name].shape)}"
            )


def write_state_spaces(model: Any, folder: str) -> None:
    """Write config.json, pytorch_model.bin (SPEC sec. 9 names, head included) and mimosa.json with the A activation."""
    c = model.config
    ssm = {theirs: getattr(c, ours) for theirs, ours in SSM_FIELDS.items()}
    config = {theirs: getattr(c, ours) for theirs, ours in TOP_FIELDS.items()}
    config |= {
        "ssm_cfg": {"layer": "Mamba3", **ssm, "chunk_size": c.tile_tokens},
        "attn_layer_idx": [], "attn_cfg": {}, "rms_norm": True, "fused_add_norm": True,
    }  # fmt: skip
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    torch.save({n: t.detach().cpu().clone() for n, t in model.state_dict().items()}, target / STATE_SPACES_WEIGHTS)
    (target / EXTRAS).write_text(json.dumps({"a_activation": c.a_activation}, indent=2) + "\n")
    (target / "config.json").write_text(json.dumps(config, indent=2) + "\n")
