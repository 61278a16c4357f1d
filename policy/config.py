"""Shape and arithmetic of a Mamba-3 language model, as a Hugging Face configuration."""

from __future__ import annotations

import warnings
from typing import Any

from transformers import PreTrainedConfig

A_ACTIVATIONS = ("softplus", "heavy_tail")
COMPUTE_DTYPES = ("", "fp32", "bf16")


class Mamba3Config(PreTrainedConfig):
    """Configuration of `Mamba3ForCausalLM`; names follow the checkpoints of state-spaces/mamba.

    Two generations of Mamba-3 exist that differ in the activation of A and nothing in their weights tells which is which:
    `a_activation` is therefore saved with every checkpoint, and loading a configuration without it warns.
    """

    model_type = "mamba3"
    attribute_map = {"hidden_size": "d_model", "num_hidden_layers": "n_layer", "intermediate_size": "d_intermediate"}

    vocab_size: int = 128256  # ids that can be sampled; the embedding is padded, see `padded_vocab_size`
    pad_vocab_size_multiple: int = 8
    d_model: int = 768
    n_layer: int = 12
    d_intermediate: int = 1500  # rounded up to a multiple of 128 by `mlp_width`; 0: no MLP
    d_state: int = 128  # N
    headdim: int = 64  # P
    expand: int = 2
    ngroups: int = 1  # G, heads of B and C
    is_mimo: bool = False
    mimo_rank: int = 4  # R, when is_mimo
    rope_fraction: float = 0.5
    is_outproj_norm: bool = False
    chunk_size: int = 0  # tokens of a scan tile; 0: 64 / rank. Blocking only, no effect on the function
    a_activation: str = "heavy_tail"
    a_floor: float = 1e-4  # lower bound of |A|
    dt_min: float = 1e-3  # range of the initial time step
    dt_max: float = 0.1
    dt_init_floor: float = 1e-4
    norm_eps: float = 1e-5
    residual_in_fp32: bool = True
    initializer_range: float = 0.02  # of the embedding
    compute_dtype: str = ""  # "bf16": linear layers cast input and weight to it; "": they run in their weight's dtype
    head_dtype: str = "fp32"  # operands of the head's product: fp32 or bf16; sums and logits are fp32 either way
    tie_word_embeddings: bool = True
    pad_token_id: int | None = None
    bos_token_id: int | None = None
    eos_token_id: int | list[int] | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        super().__post_init__(**kwargs)
        self.check()

    def check(self) -> None:
        """Raise a ValueError naming the first field that does not fit."""
        rank = self.mimo_rank if self.is_mimo else 1
        rules = (
            (self.a_activation in A_ACTIVATIONS, "a_activation", f"one of {', '.join(A_ACTIVATIONS)}"),
            (self.compute_dtype in COMPUTE_DTYPES, "compute_dtype", "fp32, bf16 or empty"),
            (self.head_dtype in ("fp32", "bf16"), "head_dtype", "fp32 or bf16"),
            (self.rope_fraction in (0.5, 1.0), "rope_fraction", "0.5 or 1.0"),
            (self.d_inner % self.headdim == 0, "headdim", f"a divisor of expand * d_model = {self.d_inner}"),
            (self.n_heads % self.ngroups == 0, "ngroups", f"a divisor of the {self.n_heads} heads"),
            (self.d_state % 4 == 0, "d_state", "a multiple of 4"),
            (rank >= 1, "mimo_rank", "at least 1"),
            (self.n_layer >= 1, "n_layer", "at least 1"),
        )
        for ok, field, wanted in rules:
            if not ok:
                raise ValueError(f"Mamba3Config.{field}: got {getattr(self, field)!r}, wanted {wanted}")

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        if "a_activation" not in config_dict and "a_activation" not in kwargs:
            warnings.warn(
                "this Mamba-3 configuration does not say which activation of A it was trained with; taking heavy_tail. "
                "A softplus model run so is silently wrong: set a_activation to be sure.",
                stacklevel=2,
            )
        return super().from_dict(config_dict, **kwargs)

    @property
    def d_inner(self) -> int:
        return int(self.expand * self.d_model)

    @property
    def n_heads(self) -> int:
        return self.d_inner // self.headdim

    @property
    def rank(self) -> int:
        return self.mimo_rank if self.is_mimo else 1

    @property
    def n_angles(self) -> int:
        """S: rotated pairs of a head."""
        rotated = int(self.d_state * self.rope_fraction)
        return (rotated - rotated % 2) // 2

    @property
    def pairing(self) -> str:
        """Which entries a rotation pairs: SISO (2j, 2j+1), MIMO (j, j + N/2)."""
        return "half" if self.is_mimo else "interleaved"

    @property
    def tile_tokens(self) -> int:
        return self.chunk_size or max(64 // self.rank, 1)

    @property
    def mlp_width(self) -> int:
        return -(-self.d_intermediate // 128) * 128

    @property
    def padded_vocab_size(self) -> int:
        multiple = self.pad_vocab_size_multiple
        return -(-self.vocab_size // multiple) * multiple
