"""What the command eval does, and what it shares with generate: rollout actors with a policy from disk, without a learner."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import ray

from ..configs.loader import require_data
from ..configs.schema import Config
from ..observe.alarms import VerifierAlarms
from ..observe.console import Console
from ..observe.run_folder import write_text
from ..policy.blueprint import Blueprint, load_policy
from ..policy.weights import pack_version, rollout_dtypes, travelling_parameters
from ..records import PolicyVersion
from .evaluate import evaluate
from .stages import Stages
from .topology import cluster
from .watchdog import Interrupted, StopFlag
from .workload import build_blueprint, build_tokenizer, check_rewards, load_workload, rollout_sampling


def packed_policy(config: Config) -> PolicyVersion:
    """The policy at model.path as version 0, in the dtypes of the rollout."""
    model = load_policy(config.model.path, config.model.dtype)
    return pack_version(0, travelling_parameters(model), rollout_dtypes(model))


@contextmanager
def serving(
    config: Config, blueprint: Blueprint, console: Console, stop: StopFlag, judged: bool = True,
    named: Sequence[str] = (),
) -> Iterator[Stages]:  # fmt: skip
    """Rollout and verifier actors (`named`: of rows) that hold the policy at model.path, as version 0."""
    version = packed_policy(config)
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


def check_target(out: str) -> None:
    """Raise ValueError now rather than when everything is done."""
    if out and not Path(out).absolute().parent.is_dir():
        raise ValueError(f"--out: got {out}, whose folder does not exist")
