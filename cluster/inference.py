"""What the commands eval and generate do: rollout actors with a policy from disk, without a learner."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import ray

from ..configs.loader import require_data
from ..configs.schema import Config, SourceConfig
from ..observe.alarms import VerifierAlarms
from ..observe.console import Console
from ..observe.run_folder import write_text
from ..policy.blueprint import Blueprint, load_policy
from ..policy.weights import pack_version, rollout_dtypes, travelling_parameters
from ..records import Completion, Request
from ..rollout.encoder import encode
from ..rollout.prompts import load_rows
from .evaluate import evaluate
from .stages import Stages
from .topology import cluster
from .watchdog import Interrupted, StopFlag
from .workload import build_blueprint, build_tokenizer, check_rewards, load_workload, rollout_sampling


@contextmanager
def serving(
    config: Config, blueprint: Blueprint, console: Console, stop: StopFlag, judged: bool = True,
    named: Sequence[str] = (),
) -> Iterator[Stages]:  # fmt: skip
    """Rollout and verifier actors (`named`: of rows) that hold the policy at model.path, as version 0."""
    model = load_policy(config.model.path, config.model.dtype)
    version = pack_version(0, travelling_parameters(model), rollout_dtypes(model))
    del model
    with stop.installed(), cluster(config):
        stages = Stages(blueprint, config, console, stop, judged, named)
        try:
            stages.publish(ray.put(version))
            stages.settle()
            yield stages
        finally:
            stages.close()


def run_eval(config: Config, out: str) -> int:
    """pass@1 and pass@k of the policy at model.path on held-out prompts; JSON to `out`, or to standard output when it is empty."""
    console, stop = Console(config.log.progress, stderr=not out), StopFlag()  # standard output is for the JSON
    check_target(out)
    tokenizer = build_tokenizer(config)
    require_data(config)
    for line in check_rewards(config) if out else ():  # without a file, standard output is for the result alone
        console.say(line)
    blueprint, workload = build_blueprint(config, tokenizer), load_workload(config, tokenizer)
    tasks = workload.evaluation_tasks(config.data.eval_prompts)
    sampling = rollout_sampling(config, tokenizer, config.eval.temperature)
    try:
        with (
            serving(config, blueprint, console, stop, named=workload.verifiers) as stages,
            console.bar("evaluation", len(tasks) * config.eval.samples) as advance,
        ):
            found = evaluate(stages, tasks, sampling, config.eval.samples, advance)
    except Interrupted:
        console.warn("stopped; an evaluation keeps nothing")
        return 130
    alarms = VerifierAlarms(console.warn, config.verifier.alarm_share, config.verifier.alarm_window)
    alarms.tell("counted as wrong", found.failures)
    result = {key.removeprefix("eval/"): value for key, value in found.as_row().items()}
    result |= {"policy": config.model.path, "temperature": config.eval.temperature, "seed": config.seed}
    text = json.dumps(result, indent=2) + "\n"
    if out:
        write_text(Path(out), text)
        console.say(
            f"pass@1 {found.pass_at[1]:.3f} +- {found.standard_error:.3f} on {found.prompts} prompts; written to {out}"
        )
    else:
        print(text, end="")
    return 0


def run_generate(config: Config, prompts: str, out: str, samples: int) -> int:
    """Complete every row of a JSONL file; one line a completion, in the order of rows and samples."""
    console, stop = Console(config.log.progress), StopFlag()
    check_target(out)
    tokenizer = build_tokenizer(config)
    rows = load_rows(SourceConfig(path=prompts), config.data.fields, config.reward.verifier, judged=False)
    rows, tokens, dropped = encode(rows, tokenizer, config.data.max_prompt_tokens, config.data.overlong)
    requests = [Request(p.id, t, samples) for p, t in zip(rows, tokens, strict=True)]
    blueprint = build_blueprint(config, tokenizer)
    try:
        with (
            serving(config, blueprint, console, stop, judged=False) as stages,
            console.bar("generate", len(requests) * samples) as advance,
        ):
            lines = completion_lines(stages, requests, config, tokenizer, advance)
    except Interrupted:
        console.warn(f"stopped; {out} was not written")
        return 130
    write_text(Path(out), "".join(lines))
    note = f", {dropped} rows dropped as too long" if dropped else ""
    console.say(f"{len(lines)} completions of {len(requests)} prompts written to {out}{note}")
    return 0


def check_target(out: str) -> None:
    """Raise ValueError now rather than when everything is done."""
    if out and not Path(out).absolute().parent.is_dir():
        raise ValueError(f"--out: got {out}, whose folder does not exist")


def completion_lines(
    stages: Stages, requests: Sequence[Request], config: Config, tokenizer: Any, advance: Any
) -> list[str]:
    """Output rows of all requests, in order."""
    sampling = rollout_sampling(config, tokenizer)
    found: dict[tuple[str, int], Completion] = {}
    for completions in stages.completions(requests, sampling):
        found |= {(c.uid, c.sample): c for c in completions}
        advance(len(completions))
    return [json.dumps(output_row(found[r.uid, i])) + "\n" for r in requests for i in range(r.samples)]


def output_row(completion: Completion) -> dict[str, Any]:
    """One line of `generate`."""
    return {
        "id": completion.uid,
        "sample": completion.sample,
        "text": completion.text,
        "token_ids": completion.token_ids.tolist(),
        "logprobs": [float(x) for x in np.round(completion.logprobs.astype(np.float64), 7)],
        "policy_version": completion.policy_version.tolist(),
        "finish_reason": completion.finish_reason,
    }
