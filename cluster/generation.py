"""What the command generate does: a file of prompts streamed through rollout actors into a file of completions.

Neither file is ever held whole. Work is cut into units on a grid that the first call fixes, so that a call which goes on computes the
same units and writes the same bytes.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerFast

from ..configs.errors import RunError
from ..configs.schema import Config, SourceConfig
from ..observe.console import Console
from ..observe.row_file import RowFile
from ..policy.blueprint import Blueprint
from ..records import Completion, Prompt, Request, Sampling
from ..rollout.encoder import encode_each
from ..rollout.prompts import read_rows
from .inference import check_target, packed_policy, serving
from .stages import unit_size
from .watchdog import Interrupted, StopFlag
from .workload import build_blueprint, build_tokenizer, rollout_sampling

VOLATILE = (
    "transformers_version",
    "_name_or_path",
    "architectures",
    "dtype",
)  # say nothing about what a policy computes


@dataclass(frozen=True, slots=True)
class Survey:
    """What a first pass over the prompts found."""

    requests: int
    dropped: int  # rows left out as too long
    digest: str  # of all ids and tokens, in order


class PromptFile:
    """The rows of a prompt file as requests; each pass reads it anew."""

    def __init__(self, path: str, config: Config, tokenizer: PreTrainedTokenizerFast, samples: int):
        self.path, self.config, self.tokenizer, self.samples = path, config, tokenizer, samples

    def survey(self) -> Survey:
        """Check every row. Raises ValueError naming the first that does not fit or whose id came before."""
        requests = dropped = 0
        digest = hashlib.blake2b(digest_size=16)
        for request in self._pass(set()):
            if request is None:
                dropped += 1
                continue
            requests += 1
            digest.update(f"{len(request.uid)} {len(request.token_ids)} {request.uid}".encode())
            digest.update(request.token_ids.tobytes())
        if not requests + dropped:
            raise ValueError(f"data: got no rows from {self.path!r}, wanted one or more")
        if not requests:
            most = self.config.data.max_prompt_tokens
            raise ValueError(f"data.max_prompt_tokens: got {most}, which all {dropped} prompts exceed")
        return Survey(requests, dropped, digest.hexdigest())

    def requests(self) -> Iterator[Request]:
        """The rows that are not dropped, while they are read."""
        return (request for request in self._pass(None) if request is not None)

    def _pass(self, seen: set[bytes] | None) -> Iterator[Request | None]:
        """A request a row, None for a row that is dropped."""
        data = self.config.data
        for row, tokens in encode_each(self._rows(seen), self.tokenizer, data.max_prompt_tokens, data.overlong):
            yield None if tokens is None else Request(row.id, tokens, self.samples)

    def _rows(self, seen: set[bytes] | None) -> Iterator[Prompt]:
        """seen: digests of the ids so far, 8 bytes a row, where ids are to be checked."""
        fields = self.config.data.fields
        for place, row in read_rows(SourceConfig(path=self.path), fields, self.config.reward.verifier, judged=False):
            if seen is not None:
                name = hashlib.blake2b(row.id.encode(), digest_size=8).digest()
                if name in seen:
                    raise ValueError(f"{place}: {fields.id}: got {row.id!r} again, wanted every id once")
                seen.add(name)
            yield row


def run_generate(config: Config, prompts: str, out: str, samples: int, overwrite: bool = False) -> int:
    """Complete every row of a JSONL file; one line a completion, in the order of rows and samples.

    A file that the same call began is gone on with. Exit status 0, or 130 after a signal.
    """
    console, stop = Console(config.log.progress), StopFlag()
    check_target(out)
    tokenizer = build_tokenizer(config)
    blueprint, sampling = build_blueprint(config, tokenizer), rollout_sampling(config, tokenizer)
    source = PromptFile(prompts, config, tokenizer, samples)
    survey = source.survey()
    call = call_of(config, blueprint, sampling, survey, samples)
    plan = {"unit": unit_size(config, survey.requests, samples)}
    with RowFile.open(Path(out), call, plan, overwrite) as file:
        work = Generation(config, blueprint, sampling, source, survey, file, console, stop)
        status = work.run()
    if status == 0:
        note = f", {survey.dropped} rows dropped as too long" if survey.dropped else ""
        console.say(f"{work.total} completions of {survey.requests} prompts written to {out}{note}")
    return status


@dataclass(frozen=True, slots=True)
class Generation:
    """One call: what is asked, and the file that it fills."""

    config: Config
    blueprint: Blueprint
    sampling: Sampling
    source: PromptFile
    survey: Survey
    file: RowFile
    console: Console
    stop: StopFlag

    @property
    def total(self) -> int:
        return self.survey.requests * self.source.samples

    def run(self) -> int:
        """Write the rows that are missing. Exit status 0, or 130 after a signal."""
        begun = self.file.rows
        units, there = rest(self.file, self.source, self.total)
        if begun == self.total:
            return 0
        if begun:
            self.console.say(f"going on after {begun} of {self.total} completions")
        try:
            with (
                serving(self.config, self.blueprint, self.console, self.stop, judged=False) as stages,
                self.console.bar("generate", self.total, begun) as advance,
            ):
                self._fill(stages.in_order(units, self.sampling), there, advance)
        except Interrupted:
            self.console.warn(f"stopped after {self.file.rows} of {self.total} completions; the same command goes on")
            return 130
        if self.file.rows != self.total:
            changed = f"has {self.source.path} changed?"
            raise RunError(f"generate: {self.file.rows} completions came, {self.total} were wanted; {changed}")
        return 0

    def _fill(self, found: Iterator[list[Completion]], there: int, advance: Any) -> None:
        """Append all but the first `there` completions, and say how fast they came."""
        started, tokens = time.monotonic(), 0
        for completions in found:
            new, there = completions[there:], 0
            self.file.append(output_row(c) for c in new)
            tokens += sum(len(c.token_ids) for c in new)
            advance(len(new), sum(len(c.token_ids) for c in new))
        seconds = time.monotonic() - started
        rate = f"{tokens / seconds:,.0f} tokens/s"
        self.console.say(f"{tokens} tokens in {seconds:.1f} s, {rate} on {self.config.rollout.actors} rollout actors")


def rest(file: RowFile, source: PromptFile, total: int) -> tuple[Iterator[list[Request]], int]:
    """The units whose rows `file` lacks, and how many rows of the first are there: that one is computed again.

    Raises ValueError when the last row is not the one that this call writes in its place.
    """
    if file.rows > total:
        raise ValueError(f"--out: got {file.rows} rows, wanted at most the {total} of this call, or --overwrite")
    size, samples = int(file.plan["unit"]), source.samples
    begin = file.rows // (size * samples) * size  # the request that a unit begins with
    there = file.rows - begin * samples  # rows of that unit
    requests = source.requests()
    before = deque(islice(requests, begin), maxlen=1)
    unit = list(islice(requests, size))
    if file.last is not None:
        last = [*before, *unit][len(before) + (there - 1) // samples]
        wanted, found = (last.uid, (there - 1) % samples), (file.last.get("id"), file.last.get("sample"))
        if found != wanted:
            raise ValueError(f"--out: got a row {file.rows} of (id, sample) {found}, wanted {wanted}, or --overwrite")
    return chain([unit] if unit else [], _cut(requests, size)), there


def _cut(requests: Iterator[Request], size: int) -> Iterator[list[Request]]:
    while unit := list(islice(requests, size)):
        yield unit


def call_of(config: Config, blueprint: Blueprint, sampling: Sampling, survey: Survey, samples: int) -> dict[str, Any]:
    """What the bytes of the output depend on, as JSON says it. Slots and actors are not in it: they are free to change."""
    shape = {name: value for name, value in blueprint.config.to_dict().items() if name not in VOLATILE}
    text = json.dumps(shape, sort_keys=True, default=str)
    call = {
        "policy": packed_policy(config).checksum,
        "policy shape": hashlib.blake2b(text.encode(), digest_size=8).hexdigest(),
        "prompts": f"{survey.requests} prompts {survey.digest}",
        "samples": samples,
        **asdict(sampling),
        "device": config.device,
        "kernels": blueprint.kernels,
    }
    rounded: dict[str, Any] = json.loads(json.dumps(call))
    return rounded


def output_row(completion: Completion) -> dict[str, Any]:
    """One line of the output."""
    return {
        "id": completion.uid,
        "sample": completion.sample,
        "text": completion.text,
        "token_ids": completion.token_ids.tolist(),
        "logprobs": [float(x) for x in np.round(completion.logprobs.astype(np.float64), 7)],
        "policy_version": completion.policy_version.tolist(),
        "finish_reason": completion.finish_reason,
    }
