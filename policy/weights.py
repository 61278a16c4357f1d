"""Weights on their way from the learner to the rollout actors: which dtype each travels in, packing, loading, checksum."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from ..records import PolicyVersion
from .mixer import Linear

CHECKSUM_WORDS = 1 << 22  # words summed at once: bounds the int64 copy


def travelling_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that are sent, by state-dict name; a tied head is its embedding and goes once."""
    return dict(model.named_parameters())


def rollout_dtypes(model: nn.Module) -> dict[str, torch.dtype]:
    """The dtype each parameter has on a rollout actor.

    Weights of `Linear` go in the dtype in which the learner multiplies with them. Everything else (embedding and head, norms,
    dt_bias, D, B/C biases, mimo_*) stays as it is, fp32: the recurrence is sensitive to them and they are few.
    """
    cast = {f"{name}.weight": m.compute_dtype for name, m in model.named_modules() if isinstance(m, Linear)}
    return {name: cast.get(name) or p.dtype for name, p in travelling_parameters(model).items()}


def cast_for_rollout(model: nn.Module) -> None:
    """Give a model's `Linear` weights their rollout dtype, in place."""
    for module in model.modules():
        if isinstance(module, Linear) and module.compute_dtype is not None:
            module.weight.data = module.weight.data.to(module.compute_dtype)


def pack_version(number: int, tensors: Mapping[str, Tensor], dtypes: Mapping[str, torch.dtype]) -> PolicyVersion:
    """A copy of full tensors in their rollout dtypes, on the host, with its checksum."""
    cast = {name: tensor.detach().to("cpu", dtypes[name], copy=True).contiguous() for name, tensor in tensors.items()}
    arrays = {name: (t.view(torch.int16) if t.dtype == torch.bfloat16 else t).numpy() for name, t in cast.items()}
    low = frozenset(name for name, t in cast.items() if t.dtype == torch.bfloat16)
    return PolicyVersion(number, checksum(cast.items()), arrays, low)


def load_version(model: nn.Module, version: PolicyVersion) -> None:
    """Copy a version into a rollout model in place, at fixed addresses, and check that it arrived whole.

    Raises ValueError naming the tensor when names or shapes differ, and when the checksum does.
    """
    parameters = travelling_parameters(model)
    if missing := sorted(parameters.keys() ^ version.tensors.keys()):
        raise ValueError(f"policy version {version.number}: tensor {missing[0]} is on one side only")
    with torch.no_grad():
        for name, parameter in parameters.items():
            tensor = version_tensor(version, name)
            if tensor.shape != parameter.shape:
                raise ValueError(
                    f"policy version {version.number}: tensor {name} has shape {tuple(tensor.shape)}, "
                    f"wanted {tuple(parameter.shape)}"
                )
            parameter.copy_(tensor)
    if (found := checksum((n, p.detach()) for n, p in parameters.items())) != version.checksum:
        raise ValueError(f"policy version {version.number}: checksum {found} after loading, wanted {version.checksum}")


def version_tensor(version: PolicyVersion, name: str) -> Tensor:
    """One tensor of a version, on the host, without a copy."""
    with warnings.catch_warnings():  # arrays out of the object store are read-only, and only read here
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        tensor = torch.from_numpy(version.tensors[name])
    return tensor.view(torch.bfloat16) if name in version.bfloat16 else tensor


def checksum(tensors: Iterable[tuple[str, Tensor]]) -> str:
    """Hex digest over names, shapes, dtypes and bits, the same on every device.

    Each tensor is read as integer words w_i; sum w_i and sum (i mod 65521 + 1) w_i modulo 2^64 go into the digest, so that a
    changed, lost or moved word shows.
    """
    digest = hashlib.blake2b(digest_size=8)
    for name, tensor in sorted(tensors, key=lambda item: item[0]):
        plain, weighted = _word_sums(tensor)
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype} {plain} {weighted};".encode())
    return digest.hexdigest()


def _word_sums(tensor: Tensor) -> tuple[int, int]:
    word = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[tensor.element_size()]
    words = tensor.contiguous().view(word).flatten()
    plain = weighted = 0
    for start in range(0, words.numel(), CHECKSUM_WORDS):
        piece = words[start : start + CHECKSUM_WORDS].long()
        index = torch.arange(start, start + piece.numel(), device=piece.device) % 65521 + 1
        plain += int(piece.sum())
        weighted += int((piece * index).sum())
    return plain % 2**64, weighted % 2**64
