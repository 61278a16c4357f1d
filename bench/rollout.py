"""`mimosa bench rollout`: the rollout engine against other ways to generate on a CPU, and against its floors on a GPU."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import product

import numpy as np
import torch

from ..policy.blueprint import Blueprint
from ..policy.config import Mamba3Config
from ..policy.mamba3 import Mamba3ForCausalLM
from ..policy.tokenizer import bytes_tokenizer
from ..policy.weights import pack_version, rollout_dtypes, travelling_parameters
from ..records import Request, Sampling, TrialLoad
from ..rollout.bandwidth import copy_bandwidth
from ..rollout.engine import Engine
from ..rollout.traffic import token_bytes, weight_bytes
from ..rollout.trial import difference, host_gap
from .record import Figure, append, figure, show

VOCAB = 128_256
SECONDS = 12.0  # of decoding for one figure on a GPU
MODES = ("recurrent", "replay")
GREEDY, SAMPLED = 0.0, 1.0
SLOTS, ONE_BY_ONE = 64, 8  # sequences at once, and of those that are generated alone
REPETITIONS = 5
PROMPT, LENGTH = 8, 64  # tokens, of the comparison on a CPU


@dataclass(frozen=True, slots=True)
class Bench:
    """What all figures of a run share."""

    device: str
    bandwidth: float  # bytes per second of a copy


def small_shapes() -> dict[str, Mamba3Config]:
    """The policies of the comparison on a CPU."""
    common = dict(is_mimo=True, mimo_rank=2, headdim=32, dt_min=0.01, dt_max=0.5, compute_dtype="fp32")
    return {
        "quickstart": Mamba3Config(vocab_size=17, d_model=64, n_layer=2, d_intermediate=128, d_state=16, **common),
        "1M": Mamba3Config(vocab_size=259, d_model=128, n_layer=4, d_intermediate=384, d_state=32, **common),
    }


def large_shape(head: str = "fp32") -> Mamba3Config:
    """1.5B parameters, MIMO of rank 4, bf16: as configs/h100_1p5b.yaml, with a vocabulary of its size. head: its operands' dtype."""
    return Mamba3Config(
        vocab_size=VOCAB, d_model=2048, n_layer=24, d_intermediate=3824, d_state=128, headdim=64, is_mimo=True,
        mimo_rank=4, compute_dtype="bf16", head_dtype=head,
    )  # fmt: skip


def random_policy(config: Mamba3Config, device: str) -> Mamba3ForCausalLM:
    """Random weights; the logits are spread, so that rounding does not decide which token is the likeliest."""
    model = Blueprint(config, bytes_tokenizer(), "auto").filled_model(device, "", 0)
    with torch.no_grad():
        model.backbone.embedding.weight.mul_(5)
    return model


def modes(model: Mamba3ForCausalLM) -> list[str]:
    """The decode modes that this policy's kernels have on its device."""
    found = []
    for mode in MODES:
        try:
            model.slots(1, mode)
        except ValueError as error:
            print(f"{mode} left out: {error}", flush=True)
        else:
            found.append(mode)
    return found


def requests(config: Mamba3Config, count: int, tokens: int, samples: int = 1) -> list[Request]:
    made = np.random.default_rng(0)
    ids = made.integers(3, min(config.vocab_size, 259), (count, tokens)).astype(np.int32)
    return [Request(f"prompt {i}", row, samples) for i, row in enumerate(ids)]


def bench_baselines(bench: Bench) -> Iterator[Figure]:
    """Tokens per second of the engine at 64 slots, beside one sequence at a time and transformers' generate, greedy, on equal tokens."""
    for name, config in small_shapes().items():
        model = random_policy(config, bench.device)
        size = sum(p.numel() for p in model.parameters())
        setting = f"{name} ({size:,} parameters), {PROMPT} + {LENGTH} tokens, greedy"
        asked = requests(config, SLOTS, PROMPT)
        ours = f"engine, {SLOTS} slots"
        tokens, rates = rated({
            ours: partial(engine_tokens, Engine(model, bytes_tokenizer(), slots=SLOTS), asked),
            "engine, one sequence at a time":
                partial(engine_tokens, Engine(model, bytes_tokenizer(), slots=1), asked[:ONE_BY_ONE]),
            "transformers generate, one at a time": partial(transformers_tokens, model, asked[:ONE_BY_ONE], 1),
            f"transformers generate, {SLOTS} at once": partial(transformers_tokens, model, asked, SLOTS),
        })  # fmt: skip
        for peer, found in tokens.items():
            ratio = statistics.median(a / b for a, b in zip(rates[ours], rates[peer], strict=True))
            same = sum(bool((a == b).all()) for a, b in zip(found, tokens[ours], strict=False))
            note = f"{SLOTS} slots are {ratio:.1f}x this, in turns; {same} of {len(found)} sequences have its tokens"
            yield figure(peer, setting, "tokens/s", rates[peer], note="" if peer == ours else note)
            if same < 0.9 * len(found):
                raise RuntimeError(f"bench rollout: {peer}: {note}, wanted all")


def engine_tokens(engine: Engine, asked: Sequence[Request]) -> np.ndarray:
    """int [n, LENGTH], greedy."""
    return np.stack([c.token_ids for c in engine.generate(asked, Sampling(LENGTH, temperature=GREEDY))])


def transformers_tokens(model: Mamba3ForCausalLM, asked: Sequence[Request], batch: int) -> np.ndarray:
    """The same by transformers' generate, `batch` prompts a call."""
    found = []
    for start in range(0, len(asked), batch):
        ids = torch.from_numpy(np.stack([r.token_ids for r in asked[start : start + batch]]).astype(np.int64))
        out = model.generate(  # type: ignore[operator]
            ids.to(model.device), attention_mask=torch.ones_like(ids).to(model.device), do_sample=False,
            max_new_tokens=LENGTH, eos_token_id=None, pad_token_id=0,
        )  # fmt: skip
        found.append(out[:, ids.shape[1] :].cpu().numpy())
    return np.concatenate(found)


def rated(works: Mapping[str, Callable[[], np.ndarray]]) -> tuple[dict[str, np.ndarray], dict[str, list[float]]]:
    """Tokens of each, and tokens per second of each repetition after one that is not counted.

    They take turns, so that what else the machine does falls on all of them.
    """
    tokens = {name: work() for name, work in works.items()}
    rates: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(REPETITIONS):
        for name, work in works.items():
            started = time.perf_counter()
            work()
            rates[name].append(tokens[name].size / (time.perf_counter() - started))
    return tokens, rates


def bench_sampling(bench: Bench) -> Iterator[Figure]:
    """The engine as training uses it: sampled at temperature 1, with a logprob of every token."""
    for name, config in small_shapes().items():
        model = random_policy(config, bench.device)
        engine, asked = Engine(model, bytes_tokenizer(), slots=SLOTS), requests(config, SLOTS, PROMPT)

        def work(engine: Engine = engine, asked: Sequence[Request] = asked) -> np.ndarray:
            return np.stack([c.token_ids for c in engine.generate(asked, Sampling(LENGTH, temperature=SAMPLED))])

        _, rates = rated({name: work})
        setting = f"{name}, {PROMPT} + {LENGTH} tokens, sampled, logprobs"
        yield figure(f"engine, {SLOTS} slots", setting, "tokens/s", rates[name])


def bench_decode(bench: Bench) -> Iterator[Figure]:
    """1.5B, all slots in use: tokens per second at batch 128 and 512 in both modes, beside the floor of weight and state bytes."""
    for head in ("fp32", "bf16"):
        model = random_policy(large_shape(head), bench.device)
        for mode, batch in product(modes(model), (128, 512)):
            engine = Engine(model, bytes_tokenizer(), slots=batch, mode=mode)
            rates = decode_rates(engine, requests(model.config, batch // 16, 64, 16), 2048)
            floor = byte_floor(bench, engine, mode, batch)
            setting = f"1.5B MIMO R=4, {mode}, batch {batch}, bf16, head {head}, sampled, logprobs"
            note = f"byte floor {floor:,.0f} tokens/s, {statistics.median(rates) / floor:.0%} of it"
            yield figure("decode, all slots in use", setting, "tokens/s", rates, note=note)
            del engine
            torch.cuda.empty_cache()


def bench_context(bench: Bench) -> Iterator[Figure]:
    """Tokens per second after 1k, 8k and 32k tokens of context: a state has one size, so they should be equal."""
    model = random_policy(large_shape(), bench.device)
    for mode in modes(model):
        for context in (1024, 8192, 32768):
            engine = Engine(model, bytes_tokenizer(), slots=128, mode=mode)
            rates = decode_rates(engine, requests(model.config, 1, context, 128), 2048, SECONDS / 2)
            setting = f"1.5B MIMO R=4, {mode}, batch 128, context {context}"
            yield figure("decode after a long context", setting, "tokens/s", rates)
            del engine
            torch.cuda.empty_cache()


def decode_rates(engine: Engine, asked: Sequence[Request], length: int, seconds: float = SECONDS) -> list[float]:
    """Tokens per second of every block while all slots are in use, for `seconds` or until the first sequence ends."""
    engine.submit(asked, Sampling(max_tokens=length, temperature=SAMPLED))
    wanted = sum(r.samples for r in asked)
    while len(engine.live) < wanted:
        engine.step()
    engine.step()  # the graph of this size is there now
    rates, deadline = [], time.perf_counter() + seconds
    while time.perf_counter() < deadline and len(engine.live) == wanted:
        before, started = engine.stats, time.perf_counter()
        engine.step()
        rates.append(difference(engine.stats, before).completion_tokens / (time.perf_counter() - started))
    engine.reset()
    return rates


def byte_floor(bench: Bench, engine: Engine, mode: str, batch: int) -> float:
    """Tokens per second that the bytes of weights and states allow at the copy bandwidth."""
    config, element = engine.model.config, 2 if engine.model.config.compute_dtype == "bf16" else 4
    state = token_bytes(config, mode, engine.slots.bytes_per_slot, element)
    return bench.bandwidth * batch / (weight_bytes(engine.model) + batch * state)


def bench_fork(bench: Bench) -> Iterator[Figure]:
    """One prompt's state into the slots of 16 samples."""
    from .timing import gpu_times

    model = random_policy(large_shape(), bench.device)
    for mode in modes(model):
        engine = Engine(model, bytes_tokenizer(), slots=32, mode=mode)
        times = gpu_times(lambda e=engine: e.slots.copy(0, range(1, 17)))  # type: ignore[misc]
        floor = 1e3 * 17 * engine.slots.bytes_per_slot / bench.bandwidth
        yield figure("fork of 16", f"1.5B MIMO R=4, {mode}", "ms", times, floor)
        del engine


def bench_swap(bench: Bench) -> Iterator[Figure]:
    """Pause of decoding while new weights are taken in, with 128 sequences under way whose states are kept."""
    model = random_policy(large_shape(), bench.device)
    version = pack_version(1, travelling_parameters(model), rollout_dtypes(model))
    engine = Engine(model, bytes_tokenizer(), slots=128, swap_sample=0)
    engine.submit(requests(model.config, 8, 64, 16), Sampling(max_tokens=2048, temperature=SAMPLED))
    for _ in range(3):
        engine.step()
    pauses = []
    for _ in range(5):
        started = time.perf_counter()
        engine.update_weights(version)
        torch.cuda.synchronize()
        pauses.append(1e3 * (time.perf_counter() - started))
        engine.step()
    engine.reset()
    note = "from host memory, checksum included"
    yield figure("weight swap", f"1.5B MIMO R=4, {weight_bytes(model) / 1e9:.2f} GB", "ms", pauses, note=note)


def bench_idle(bench: Bench) -> Iterator[Figure]:
    """Share of a stretch of decoding in which no kernel ran, by the profiler."""
    model = random_policy(large_shape(), bench.device)
    for mode in modes(model):
        engine = Engine(model, bytes_tokenizer(), slots=512, mode=mode)
        asked = requests(model.config, 32, 64, 16)
        load = TrialLoad(tuple(asked), (2048,) * 512)
        shares = [100 * host_gap(engine, load) for _ in range(3)]
        yield figure("GPU idle", f"1.5B MIMO R=4, {mode}, batch 512", "%", shares, note="under the profiler")
        del engine
        torch.cuda.empty_cache()


Section = Callable[[Bench], Iterator[Figure]]
SECTIONS: dict[str, dict[str, Section]] = {
    "cpu": {"baselines": bench_baselines, "sampling": bench_sampling},
    "cuda": {
        "decode": bench_decode, "context": bench_context, "fork": bench_fork, "swap": bench_swap, "idle": bench_idle,
        "baselines": bench_baselines,
    },
}  # fmt: skip


def run(sections: list[str], device: str = "", save: bool = True) -> list[Figure]:
    """Measure the sections (all of the device's when the list is empty), print each figure and append it to the results.

    device: cpu or cuda; empty: cuda where there is one.
    """
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    if device not in SECTIONS or (device == "cuda" and not torch.cuda.is_available()):
        raise ValueError(f"bench rollout: got --device {device}, wanted cpu, or cuda where there is a CUDA device")
    known = SECTIONS[device]
    if unknown := set(sections) - known.keys():
        raise ValueError(
            f"bench rollout: got {', '.join(sorted(unknown))}, wanted some of {', '.join(known)} on {device}"
        )
    bench = Bench(device, copy_bandwidth(device))
    if device == "cpu":
        torch.set_num_threads(1)  # as a rollout actor has; all contenders have the same
    print(f"copy {bench.bandwidth / 1e9:,.1f} GB/s", flush=True)
    found = []
    for name in sections or list(known):
        for one in known[name](bench):
            if device == "cpu":
                one = replace(one, device=f"CPU, {torch.get_num_threads()} threads")
            print(show(one), flush=True)
            found.append(one)
            if save:
                append([one])
    return found
