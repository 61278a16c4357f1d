"""The Mamba-3 language model: one model whose `forward` trains and prefills and whose `step` decodes.

SPEC is docs/mamba3.md.
"""

from __future__ import annotations

import json
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors import safe_open
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel
from transformers import initialization as init
from transformers.generation import GenerationMixin
from transformers.utils import ModelOutput

from .backbone import Backbone, PolicyState
from .checkpoint import EXTRAS, check_shapes, find_file, is_state_spaces, read_state_spaces, state_spaces_config
from .config import Mamba3Config
from .head import Head, LMHead
from .mixer import Linear, Mamba3Mixer, RMSNorm
from .slots import MODES, PolicySlots, ReferenceSlots


@dataclass
class Mamba3Output(ModelOutput):
    """What `forward` returns; fields that were not asked for are None."""

    loss: Tensor | None = None  # mean cross-entropy, with labels
    logits: Tensor | None = None  # fp32 [B, T, V]
    logprobs: Tensor | None = None  # fp32 [B, T], of targets
    entropy: Tensor | None = None  # fp32 [B, T], nats
    state: Any = None  # PolicyState after the last token of each sequence
    cache_params: Any = None  # the same under the name that transformers' generate looks for


class Mamba3PreTrainedModel(PreTrainedModel):
    config_class = Mamba3Config
    base_model_prefix = "backbone"
    _no_split_modules = ["Block"]
    _is_stateful = True

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """SPEC sec. 2 and 9; the LM's second pass of the residual scaling leaves 1 / sqrt(n_layer) as the last applied."""
        if isinstance(module, Linear):
            init.kaiming_uniform_(module.weight, a=math.sqrt(5))
            if module.residual:
                init.copy_(module.weight, module.weight / math.sqrt(self.config.n_layer))
        elif isinstance(module, nn.Embedding | LMHead):
            init.normal_(module.weight, std=self.config.initializer_range)
        elif isinstance(module, RMSNorm):
            init.ones_(module.weight)
        elif isinstance(module, Mamba3Mixer):
            self._init_mixer(module)

    def _init_mixer(self, mixer: Mamba3Mixer) -> None:
        c = self.config
        span = math.log(c.dt_max) - math.log(c.dt_min)
        dt = torch.exp(torch.rand(c.n_heads) * span + math.log(c.dt_min)).clamp(min=c.dt_init_floor)
        init.copy_(mixer.dt_bias, dt + torch.log(-torch.expm1(-dt)))
        for ones in (mixer.B_bias, mixer.C_bias, mixer.D):
            init.ones_(ones)
        if c.is_mimo:
            init.constant_(mixer.mimo_x, 1 / c.rank)
            init.ones_(mixer.mimo_z)
            init.constant_(mixer.mimo_o, 1 / c.rank)


class Mamba3ForCausalLM(Mamba3PreTrainedModel, GenerationMixin):
    """Mamba-3 language model with a tied or separate head.

    `kernels` names this instance's backend ("auto", "reference", "triton"), of all that it computes; it is not saved.
    """

    _tied_weights_keys = {"lm_head.weight": "backbone.embedding.weight"}

    def __init__(self, config: Mamba3Config):
        super().__init__(config)
        compute_dtype = {"bf16": torch.bfloat16, "fp32": torch.float32, "": None}[config.compute_dtype]
        self.backbone = Backbone(config, compute_dtype)
        self.lm_head = LMHead(config)
        self.kernels = "auto"
        self.post_init()

    @classmethod
    def read_config(cls, source: str) -> Mamba3Config:
        """The configuration of a checkpoint in either format. Raises ValueError when there is none."""
        file = find_file(source, "config.json")
        if file is None:
            raise ValueError(f"{source}: got no config.json there, wanted a policy folder or a hub name")
        config = json.loads(Path(file).read_text())
        if is_state_spaces(config):
            extras = find_file(source, EXTRAS)
            return state_spaces_config(config, json.loads(Path(extras).read_text()) if extras else {})
        loaded: Mamba3Config = Mamba3Config.from_pretrained(source)
        return loaded

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *args: Any, **kwargs: Any) -> Mamba3ForCausalLM:
        """As transformers does; also reads the checkpoint format of state-spaces/mamba, from a folder or the hub.

        Raises ValueError naming the tensor when a checkpoint's shapes do not fit its configuration.
        """
        source = str(pretrained_model_name_or_path)
        file = find_file(source, "config.json")
        config = json.loads(Path(file).read_text()) if file else {}
        if not is_state_spaces(config):
            if os.path.isdir(source):
                _check_safetensors(source, kwargs.get("config") or Mamba3Config.from_pretrained(source))
            loaded: Mamba3ForCausalLM = super().from_pretrained(source, *args, **kwargs)
            return loaded
        own, tensors = read_state_spaces(source, config)
        model = cls(kwargs.get("config") or own)
        tensors.setdefault("lm_head.weight", tensors["backbone.embedding.weight"])
        check_shapes(model.state_dict(), {n: tuple(t.shape) for n, t in tensors.items()}, source)
        model.load_state_dict(tensors)
        dtype = kwargs.get("dtype")
        if isinstance(dtype, torch.dtype):
            model.to(dtype=dtype)  # type: ignore[call-arg]
        return model.eval()

    def get_input_embeddings(self) -> nn.Module:
        return self.backbone.embedding

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.backbone.embedding = value  # type: ignore[assignment]

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        *,
        cu_seqlens: Tensor | None = None,
        initial_state: PolicyState | None = None,
        return_state: bool = False,
        targets: Tensor | None = None,
        temperature: float = 1.0,
        labels: Tensor | None = None,
        cache_params: PolicyState | None = None,
        use_cache: bool = False,
        logits_to_keep: int = 0,
        **_: Any,
    ) -> Mamba3Output:
        """input_ids int [B, T] -> Mamba3Output.

        cu_seqlens int32 [n + 1]: B is 1 and n sequences lie end to end. attention_mask [B, T]: padding, on either side, is packed
        away. initial_state and the returned state hold one row per sequence. With targets int [B, T] the result carries the
        log-probability of targets[t] given everything up to input t, and the entropy, instead of logits. labels [B, T] are
        shifted by one inside, as transformers does, and -100 is ignored.
        """
        if attention_mask is not None and cu_seqlens is None and not bool(attention_mask.bool().all()):
            return self._forward_padded(input_ids, attention_mask.bool(), use_cache, labels)
        hidden, state = self.backbone(
            input_ids, initial_state or cache_params, cu_seqlens=cu_seqlens, return_state=return_state or use_cache,
            backend=self.kernels,
        )  # fmt: skip
        kept = state if return_state or use_cache else None
        if targets is not None:
            logprobs, entropy = self.lm_head(hidden, targets, temperature, self.backbone.chosen(self.kernels))
            return Mamba3Output(logprobs=logprobs, entropy=entropy, state=kept)
        logits = self.lm_head(hidden[:, -logits_to_keep:] if logits_to_keep else hidden)
        loss = _shifted_cross_entropy(logits, labels) if labels is not None else None
        return Mamba3Output(loss=loss, logits=logits, state=kept, cache_params=kept)

    def _forward_padded(self, ids: Tensor, mask: Tensor, use_cache: bool, labels: Tensor | None) -> Mamba3Output:
        lengths = mask.sum(1)
        if not bool((lengths > 0).all()):
            raise ValueError("attention_mask: got a row without tokens, wanted at least one token in every row")
        cu_seqlens = F.pad(lengths.cumsum(0), (1, 0)).to(torch.int32)
        packed = self(ids[mask].unsqueeze(0), cu_seqlens=cu_seqlens, return_state=use_cache)
        logits = packed.logits.new_zeros((*ids.shape, packed.logits.shape[-1]))
        logits[mask] = packed.logits[0]
        loss = _shifted_cross_entropy(logits, labels.masked_fill(~mask, -100)) if labels is not None else None
        return Mamba3Output(loss=loss, logits=logits, state=packed.state, cache_params=packed.state)

    def step(self, input_ids: Tensor, state: PolicyState, *, inplace: bool = False) -> tuple[Tensor, PolicyState]:
        """One token of n sequences: input_ids int [n] -> (logits fp32 [n, V], state after it)."""
        hidden, state = self.backbone.step(input_ids, state, inplace=inplace, backend=self.kernels)
        return self.lm_head(hidden), state

    def empty_state(self, rows: int, device: torch.device | None = None) -> PolicyState:
        """The state before the first token of `rows` sequences."""
        device = device or self.device
        dtype = torch.promote_types(self.backbone.norm_f.weight.dtype, torch.float32)
        return [layer.mixer.empty_state(rows, device, dtype) for layer in self.backbone.blocks]

    def slots(self, capacity: int, mode: str = "auto") -> PolicySlots:
        """State slots for decoding, on the model's device, for this instance's backend.

        mode  recurrent: the state is read and written at every token; replay: written once per chunk; auto: the faster one there is
        Raises ValueError for a mode that the backend does not have, or a capacity below 1.
        """
        backend = self.backbone.chosen(self.kernels)
        modes = MODES if backend == "triton" else ("auto", "recurrent")
        if mode not in modes:
            raise ValueError(f"decode mode: got {mode!r} with {backend} kernels, wanted one of {', '.join(modes)}")
        if capacity < 1:
            raise ValueError(f"slots: got {capacity}, wanted at least 1")
        if backend == "triton":
            from .tile_slots import RecurrentSlots, ReplaySlots  # only here: Triton exists on Linux alone

            return (
                RecurrentSlots(self.backbone, capacity) if mode == "recurrent" else ReplaySlots(self.backbone, capacity)
            )
        return ReferenceSlots(self.backbone, self.empty_state(capacity + 1), backend)

    def head(self) -> Head:
        """The head on this instance's backend: logits of hidden states, and tokens drawn from them."""
        return Head(self.lm_head, self.backbone.chosen(self.kernels))

    def prepare_inputs_for_generation(  # type: ignore[override]
        self, input_ids: Tensor, cache_params: Any = None, attention_mask: Any = None, **_: Any
    ) -> dict[str, Any]:
        if isinstance(cache_params, list):
            return {"input_ids": input_ids[:, -1:], "cache_params": cache_params, "use_cache": True}
        return {"input_ids": input_ids, "attention_mask": attention_mask, "use_cache": True}

    def _prepare_cache_for_generation(self, *args: Any, **kwargs: Any) -> None:  # type: ignore[override]
        """The state is made by the first forward pass; transformers has no cache of its own to prepare."""


def _check_safetensors(folder: str, config: Mamba3Config) -> None:
    """Compare the shapes in a folder's safetensors headers with the configuration's."""
    with torch.device("meta"):
        expected = dict(Mamba3ForCausalLM(config).named_parameters())
    found: dict[str, tuple[int, ...]] = {}
    for file in sorted(Path(folder).glob("*.safetensors")):
        with safe_open(file, "pt") as tensors:
            found |= {name: tuple(tensors.get_slice(name).get_shape()) for name in tensors.keys()}  # noqa: SIM118
    if found:
        check_shapes(expected, {n: s for n, s in found.items() if n in expected or n != "lm_head.weight"}, folder)


def _shifted_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten().long(), ignore_index=-100)


AutoConfig.register("mamba3", Mamba3Config, exist_ok=True)
AutoModelForCausalLM.register(Mamba3Config, Mamba3ForCausalLM, exist_ok=True)
