"""What the commands train and sft do: put the parts together, run them, and say what came out."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from typing import Any

import torch

from ..configs.loader import require_data, require_whole_softmax, to_yaml
from ..configs.schema import Config
from ..observe.console import Console
from ..observe.curves import draw_curves
from ..observe.metrics import MetricsLog
from ..observe.provenance import provenance
from ..observe.run_folder import RunFolder, write_text
from ..policy.blueprint import Blueprint
from ..policy.mamba3 import Mamba3ForCausalLM
from ..trainer.checkpoint import check_learner
from .learner_actor import LearnerTask
from .learners import LearnerGroup
from .pipeline import Pipeline
from .stages import Stages
from .topology import cluster
from .warm_start import SupervisedLoop
from .watchdog import Interrupted, StopFlag
from .workload import Workload, build_blueprint, build_tokenizer, check_rewards, demonstrations, load_workload

STATS = "stats.json"


@contextmanager
def prepared_run(
    command: str, config: Config, name: str, console: Console
) -> Iterator[tuple[RunFolder, Blueprint, Workload]]:
    """What can be wrong with settings, rows and the run folder is found here, before Ray starts."""
    require_data(config)
    require_whole_softmax(config)
    rewards = check_rewards(config)
    tokenizer = build_tokenizer(config)
    blueprint, workload = build_blueprint(config, tokenizer), load_workload(config, tokenizer)
    if config.sft.steps:
        demonstrations(workload, tokenizer)
    run = RunFolder.open(config.run.dir, config.run.root, config.run.name or name, config.resume)
    try:
        if config.resume:
            run.claim(command)
            check_checkpoints(config, blueprint, run)
        config.run.dir = str(run.path)
        config.provenance = {"command": command, **provenance()}
        # Without `resume`: that is said anew each time, and the file may be the beginning of another run.
        write_text(run.path / "config.yaml", to_yaml(replace(config, resume=False)))
        for note in (*rewards, *workload.notes):
            console.say(note)
        yield run, blueprint, workload
    finally:
        run.release()


@contextmanager
def metrics_log(config: Config, run: RunFolder) -> Iterator[MetricsLog]:
    """The run's metrics.jsonl, and wandb when it is asked for."""
    log = MetricsLog(run.path / "metrics.jsonl", config.log.wandb, config.log.project, run.path.name, asdict(config))
    try:
        yield log
    finally:
        log.close()


def check_checkpoints(config: Config, blueprint: Blueprint, run: RunFolder) -> None:
    """Raise ValueError naming what differs when the run's last checkpoints are not of this policy and these learners."""
    latest = [found[-1] for kind in ("sft", "step") if (found := run.checkpoints(kind))]
    if latest:
        with torch.device("meta"):
            model = Mamba3ForCausalLM(blueprint.config)
        for folder in latest:
            check_learner(str(folder), model, config.learner)


def train(config: Config, name: str) -> int:
    """Warm start when sft.steps says so, then reinforcement learning. Returns the exit status; 130 after a signal."""
    console, stop = Console(config.log.progress), StopFlag()
    with (
        prepared_run("train", config, name, console) as (run, blueprint, workload),
        metrics_log(config, run) as log,
        stop.installed(),
        cluster(config),
    ):
        announce(config, workload, run, console)
        stages = Stages(blueprint, config, console, stop, named=workload.verifiers)
        try:
            path = warm_start(config, blueprint, workload, stages, run, console, stop)
            task = LearnerTask(path, False, config.train.steps * config.train.updates)
            learners = LearnerGroup(blueprint, config, task)
            pipeline = Pipeline(config, blueprint, workload, stages, learners, run, log, console, stop)
            return reinforce(pipeline, config, run, console)
        except Interrupted:
            console.say(f"stopped in the warm start; {go_on('train', run)}")
            return 130
        finally:
            stages.close()


def reinforce(pipeline: Pipeline, config: Config, run: RunFolder, console: Console) -> int:
    started = time.monotonic()
    try:
        pipeline.run(config.resume)
    except Interrupted:
        pipeline.save()
        console.say(f"stopped after step {pipeline.progress.step}; {go_on('train', run)}")
        return 130
    finally:
        pipeline.learners.kill()
    report(config, run, pipeline, time.monotonic() - started, console)
    return 0


def sft(config: Config, name: str) -> int:
    """The supervised warm start alone; the policy is left in the run folder's policy/."""
    console, stop = Console(config.log.progress), StopFlag()
    if config.sft.steps < 1:
        raise ValueError("sft.steps: got 0, wanted at least 1 for a supervised run")
    with (
        prepared_run("sft", config, name, console) as (run, blueprint, workload),
        metrics_log(config, run) as log,
        stop.installed(),
        cluster(config),
    ):
        stages = Stages(blueprint, config, console, stop, named=workload.verifiers)
        loop = SupervisedLoop(config, blueprint, workload, stages, run, log, console, stop)
        try:
            done = loop.run(config.resume)
            loop.save()
            loop.write_policy("policy")
        except Interrupted:
            loop.save()
            loop.write_policy("policy")
            console.say(
                f"stopped after update {loop.progress.step}, whose policy lies in {run.policy}; {go_on('sft', run)}"
            )
            return 130
        finally:
            loop.close()
            stages.close()
        run.write_json("summary.json", {"steps": done.steps, "seconds/sft": done.seconds, "loss": done.loss,
                                        "pass@1/probe": done.probe, "seed": config.seed})  # fmt: skip
        console.say(f"{done.steps} updates in {done.seconds:.0f} s; the policy lies in {run.policy}")
    return 0


def go_on(command: str, run: RunFolder) -> str:
    return f"go on with: mimosa {command} {run.path}/config.yaml resume=true"


def warm_start(
    config: Config, blueprint: Blueprint, workload: Workload, stages: Stages, run: RunFolder, console: Console,
    stop: StopFlag,
) -> str:  # fmt: skip
    """Path of the policy that reinforcement learning starts from; it is made here when sft.steps says so and it is not there yet."""
    if config.sft.steps == 0:
        return config.model.path
    target = run.warm_start
    if not (target / STATS).exists():
        log = MetricsLog(run.path / "warm_start.jsonl")
        loop = SupervisedLoop(config, blueprint, workload, stages, run, log, console, stop)
        try:
            done = loop.run(config.resume)
            loop.write_policy(target.name)
        except Interrupted:
            loop.save()
            raise
        finally:
            loop.close()
        write_text(target / STATS, json.dumps(asdict(done)) + "\n")
        run.drop_checkpoints("sft")
        console.say(f"warm start done: {done.steps} updates in {done.seconds:.0f} s")
    return str(target.resolve())


def announce(config: Config, workload: Workload, run: RunFolder, console: Console) -> None:
    """The arithmetic of a step, before it costs anything."""
    t, r, v, n = config.train, config.rollout, config.verifier, config.learner
    console.say(
        f"run folder {run.path}; {len(workload.train)} training and {len(workload.evaluation)} held-out prompts"
    )
    console.say(
        f"{t.steps} steps of {t.prompts} prompts x {t.group} samples = {t.prompts * t.group} completions of at most "
        f"{r.max_tokens} tokens, {t.updates} optimizer updates each ({t.mode}); {r.actors} rollout, {v.actors} verifier, "
        f"{n.actors} learner actors on {config.device}"
    )


def report(config: Config, run: RunFolder, pipeline: Pipeline, seconds: float, console: Console) -> None:
    """summary.json, curves.png, and the closing words."""
    evaluations, steps = run.evaluations(), run.metrics()
    first, last = evaluations[0], evaluations[-1]
    stats = run.warm_start / STATS
    warm = json.loads(stats.read_text()) if stats.exists() else {"seconds": 0.0, "steps": 0}
    summary: dict[str, Any] = {
        "pass@1/warm": first["eval/pass@1"],
        "pass@1/final": last["eval/pass@1"],
        **{f"{k.removeprefix('eval/')}/final": v for k, v in last.items() if k.startswith("eval/pass@")},
        "pass@1/standard_error": last["eval/standard_error"],
        "eval/prompts": last["eval/prompts"],
        "seconds/sft": warm["seconds"],
        "seconds/rl": pipeline.progress.seconds,
        "seconds/rl_with_start_and_evaluation": seconds,
        "steps/sft": warm["steps"],
        "steps/rl": pipeline.progress.step,
        "policy_version": pipeline.progress.version,
        "restarts/rollout": pipeline.stages.rollouts.restarted,
        "restarts/verifier": pipeline.stages.verifiers.restarted,
        "seed": config.seed,
    }
    run.write_json("summary.json", summary)
    draw_curves(steps, evaluations, run.path / "curves.png", f"{run.path.name}, seed {config.seed}")
    change = summary["pass@1/final"] - summary["pass@1/warm"]
    console.say(
        f"pass@1 on {summary['eval/prompts']} held-out prompts went from {summary['pass@1/warm']:.3f} to "
        f"{summary['pass@1/final']:.3f} ({change:+.3f}) in {summary['seconds/rl']:.0f} s of reinforcement learning"
    )
    console.say(f"policy: {run.policy}   curves: {run.path / 'curves.png'}   every completion: {run.path / 'rollouts'}")
    console.say(
        f"next: mimosa generate PROMPTS.jsonl --policy {run.policy} --out OUT.jsonl, or mimosa eval --policy {run.policy}"
    )
