"""What the commands train and sft do: put the parts together, run them, and say what came out."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

from ..configs.loader import require_data, require_whole_softmax, to_yaml
from ..configs.schema import Config
from ..observe.console import Console
from ..observe.curves import draw_curves
from ..observe.metrics import MetricsLog
from ..observe.provenance import provenance
from ..observe.run_folder import RunFolder, write_text
from ..policy.blueprint import Blueprint
from .learner_actor import LearnerTask
from .learners import LearnerGroup
from .pipeline import Pipeline
from .stages import Stages
from .topology import cluster
from .warm_start import SupervisedLoop
from .watchdog import Interrupted, StopFlag
from .workload import Workload, build_blueprint, build_tokenizer, load_workload

STATS = "stats.json"


@contextmanager
def prepared_run(config: Config, name: str, console: Console) -> Iterator[tuple[RunFolder, Blueprint, Workload]]:
    """Everything that can be wrong about a run is found here, before Ray starts."""
    require_data(config)
    require_whole_softmax(config)
    tokenizer = build_tokenizer(config)
    blueprint, workload = build_blueprint(config, tokenizer), load_workload(config, tokenizer)
    run = RunFolder.open(config.run.dir, config.run.root, config.run.name or name, config.resume)
    try:
        config.run.dir = str(run.path)
        config.provenance = provenance()
        write_text(run.path / "config.yaml", to_yaml(config))
        for note in workload.notes:
            console.say(note)
        yield run, blueprint, workload
    finally:
        run.release()


def train(config: Config, name: str) -> int:
    """Warm start when sft.steps says so, then reinforcement learning. Returns the exit status; 130 after a signal."""
    console, stop = Console(config.log.progress), StopFlag()
    with prepared_run(config, name, console) as (run, blueprint, workload), stop.installed(), cluster(config):
        announce(config, workload, run, console)
        stages = Stages(blueprint, config, console, stop)
        log = MetricsLog(
            run.path / "metrics.jsonl", config.log.wandb, config.log.project, run.path.name, asdict(config)
        )
        try:
            path = warm_start(config, blueprint, workload, stages, run, console, stop)
            task = LearnerTask(path, False, config.train.steps * config.train.updates)
            learners = LearnerGroup(blueprint, config, task)
            pipeline = Pipeline(config, blueprint, workload, stages, learners, run, log, console, stop)
            return reinforce(pipeline, config, run, console)
        except Interrupted:
            console.say(f"stopped before the first step; nothing to go on with in {run.path}")
            return 130
        finally:
            log.close()
            stages.close()


def reinforce(pipeline: Pipeline, config: Config, run: RunFolder, console: Console) -> int:
    started = time.monotonic()
    try:
        pipeline.run(config.resume)
    except Interrupted:
        pipeline.save()
        console.say(
            f"stopped after step {pipeline.progress.step}; go on with: mimosa train {run.path}/config.yaml resume=true"
        )
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
    if config.resume:
        raise ValueError("resume: a supervised run is short and starts anew; give it its own run.dir")
    with prepared_run(config, name, console) as (run, blueprint, workload), stop.installed(), cluster(config):
        stages = Stages(blueprint, config, console, stop)
        try:
            done = SupervisedLoop(config, blueprint, workload, stages, console, stop).run(run, "policy")
        except Interrupted:
            console.say("stopped; a supervised run keeps nothing")
            return 130
        finally:
            stages.close()
        run.write_json("summary.json", {"steps": done.steps, "seconds/sft": done.seconds, "loss": done.loss,
                                        "pass@1/probe": done.probe, "seed": config.seed})  # fmt: skip
        console.say(
            f"{done.steps} updates in {done.seconds:.0f} s, loss {done.loss:.3f}; the policy lies in {run.policy}"
        )
    return 0


def warm_start(
    config: Config, blueprint: Blueprint, workload: Workload, stages: Stages, run: RunFolder, console: Console,
    stop: StopFlag,
) -> str:  # fmt: skip
    """Path of the policy that reinforcement learning starts from; it is made here when sft.steps says so and it is not there yet."""
    if config.sft.steps == 0:
        return config.model.path
    target = run.warm_start
    if not (target / STATS).exists():
        shutil.rmtree(target, ignore_errors=True)
        done = SupervisedLoop(config, blueprint, workload, stages, console, stop).run(run, target.name)
        write_text(target / STATS, json.dumps(asdict(done)) + "\n")
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
