"""The command line of Mimosa."""

from __future__ import annotations

import argparse
import math
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from mimosa import __version__
from mimosa.configs.errors import ConfigError, RunError
from mimosa.configs.loader import load
from mimosa.configs.schema import Config

EXAMPLES = """examples:
  mimosa train quickstart                          warm start and RL on a generated task, a few minutes on two cores
  mimosa train quickstart seed=1 train.steps=50    any key of the configuration can be set
  mimosa train my_run.yaml rollout.actors=4        a file of your own; it may say `base: quickstart`
  mimosa train runs/NAME/config.yaml resume=true   go on from the last checkpoint
  mimosa sft quickstart run.dir=runs/warm          the supervised warm start alone
  mimosa eval --policy runs/NAME/policy            pass@1 on the run's held-out prompts
  mimosa generate prompts.jsonl --policy runs/NAME/policy --out out.jsonl --samples 4
  mimosa tune quickstart                           the rollout engine's best settings for a configuration, measured here
  mimosa export runs/NAME/policy out/ --format state-spaces
  mimosa score answers.jsonl --reward math --out verdicts.jsonl
  mimosa score answers.jsonl --reward code --explain   every step of the first row's judgement
  mimosa reward-check my_rewards.py:grade train.jsonl  try a reward on real rows before a run
"""


NO_LEARNER = f"learner.token_budget={2**30}"  # a rule binds it to max_tokens, which matters where something is learned


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="mimosa", description="Reinforcement learning with verifiable rewards for Mamba-3 language models.",
        epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("--version", action="version", version=f"mimosa {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, text in (("train", "reinforcement learning"), ("sft", "supervised warm start")):
        command = commands.add_parser(name, help=text, description=f"Run {text} as configured.")
        command.add_argument("config", metavar="PRESET_OR_FILE", help="name of a preset, or a YAML file")
        command.add_argument("overrides", nargs="*", metavar="key=value", help="settings, over those of the file")
    command = commands.add_parser(
        "eval", help="pass@1 and pass@k of a policy", description="Evaluate a policy; JSON out."
    )
    command.add_argument("--policy", required=True, metavar="DIR", help="policy folder")
    command.add_argument("--out", default="", metavar="FILE", help="JSON file (default: standard output)")
    command.add_argument("overrides", nargs="*", metavar="PRESET_OR_FILE | key=value",
                         help="data source; default: the configuration of the policy's run folder")  # fmt: skip
    command = commands.add_parser(
        "generate", help="rollouts alone", description="Complete the prompts of a JSONL file."
    )
    command.add_argument("prompts", metavar="PROMPTS.jsonl", help="rows with id and prompt (text or chat messages)")
    command.add_argument("--policy", required=True, metavar="DIR", help="policy folder")
    command.add_argument("--out", required=True, metavar="OUT.jsonl")
    command.add_argument("--samples", type=int, default=1, metavar="N", help="completions per prompt")
    command.add_argument("--max-tokens", type=int, default=64, metavar="N", help="tokens per completion at most")
    command.add_argument("--seed", type=int, default=0, metavar="N")
    command.add_argument("--overwrite", action="store_true", help="begin OUT anew instead of going on with it")
    command.add_argument("overrides", nargs="*", metavar="key=value")
    command = commands.add_parser(
        "tune",
        help="measure the rollout engine",
        description="Measure slots, block, decode mode, prefill piece and actors.",
    )
    command.add_argument("config", metavar="PRESET_OR_FILE", help="name of a preset, or a YAML file")
    command.add_argument("--lengths", default="", metavar="ROLLOUTS",
                         help="completion lengths as in a run's rollouts/ (default: rollout.max_tokens)")  # fmt: skip
    command.add_argument("--minutes", type=float, default=4.0, metavar="M", help="time to search (default: 4)")
    command.add_argument("--out", default="", metavar="DIR", help="where measurements go (default: runs/tune-NAME)")
    command.add_argument("--overwrite", action="store_true", help="measure anew instead of going on")
    command.add_argument("overrides", nargs="*", metavar="key=value", help="settings, over those of the file")
    command = commands.add_parser("export", help="a policy in another format", description="Convert a policy folder.")
    command.add_argument("policy", metavar="DIR")
    command.add_argument("out", metavar="OUT_DIR")
    command.add_argument("--format", choices=("state-spaces", "hf"), default="state-spaces")
    add_reward_commands(commands)
    command = commands.add_parser("bench", help="measure", description="Measure on this machine; figures go to bench/.")
    command.add_argument("what", choices=("kernels", "rewards", "rollout"))
    command.add_argument("sections", nargs="*", metavar="SECTION", help="parts to measure (default: all)")
    command.add_argument("--tune", action="store_true", help="kernels: write the launch options that measure best")
    command.add_argument(
        "--device", default="", choices=("", "cpu", "cuda"), help="of bench rollout (default: cuda if there)"
    )
    return parser


def add_reward_commands(commands: Any) -> None:
    reward = "math, math:lenient, code, another verifier's name, or your own: file.py:function, package.module.function, a URL"
    command = commands.add_parser("score", help="judge responses", description="Judge the responses of a JSONL file.")
    command.add_argument("rows", metavar="ROWS.jsonl", help="rows with id, response, and ground_truth or tests")
    command.add_argument("--reward", required=True, metavar="SPEC", help=reward)
    command.add_argument(
        "--out", default="", metavar="OUT.jsonl", help="id, score, status, reason, seconds of each row"
    )
    command.add_argument("--workers", type=int, metavar="N", help="processes (default: one a processor)")
    command.add_argument("--timeout", type=float, default=5.0, metavar="S", help="seconds for one row (default: 5)")
    command.add_argument("--explain", action="store_true", help="show every step of judging one row, the first")
    command.add_argument("--row", default="", metavar="ID", help="the row to explain, by its id")
    command.add_argument("overrides", nargs="*", metavar="key=value", help="options of the reward")
    command = commands.add_parser(
        "reward-check", help="try a reward before a run",
        description="Judge right, empty, foreign, cut and hedged responses of real rows. Exit status 1 when something looks wrong.",
    )  # fmt: skip
    command.add_argument("reward", metavar="SPEC", help=reward)
    command.add_argument(
        "data", metavar="DATA", help="a .jsonl, .json or .parquet file, or the name of a generated task"
    )
    command.add_argument("--rows", type=int, default=200, metavar="N", help="at most so many (default: 200; 0: all)")
    command.add_argument("--timeout", type=float, default=5.0, metavar="S", help="seconds for one row (default: 5)")
    command.add_argument("overrides", nargs="*", metavar="key=value", help="options of the reward")


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """argparse gives up on settings that stand behind options; they are collected here."""
    parser = build_parser()
    parsed, rest = parser.parse_known_args(arguments)
    unknown = [word for word in rest if word.startswith("-") or "=" not in word]
    if unknown or (rest and not hasattr(parsed, "overrides")):
        parser.error(f"unrecognized arguments: {' '.join(unknown or rest)}")
    if rest:
        parsed.overrides = [*parsed.overrides, *rest]
    return parsed


def run_name(source: str, config: Config) -> str:
    """Name of a run's folder: preset or file, and seed."""
    return f"{Path(source).stem}-seed{config.seed}"


def train(arguments: argparse.Namespace) -> int:
    config = load(arguments.config, arguments.overrides)
    from mimosa.cluster.commands import train as command

    return command(config, run_name(arguments.config, config))


def sft(arguments: argparse.Namespace) -> int:
    config = load(arguments.config, arguments.overrides)
    from mimosa.cluster.commands import sft as command

    return command(config, run_name(arguments.config, config) + "-sft")


def evaluate(arguments: argparse.Namespace) -> int:
    rest: list[str] = list(arguments.overrides)
    source = rest.pop(0) if rest and "=" not in rest[0] else policy_run(arguments.policy)
    config = load(source, [*rest, f"model.path={arguments.policy}", "tokenizer.kind=policy", NO_LEARNER])
    from mimosa.cluster.inference import run_eval

    return run_eval(config, arguments.out)


def policy_run(policy: str) -> str | None:
    """The configuration of the run that a policy lies in, if it lies in one."""
    file = Path(policy).resolve().parent / "config.yaml"
    return str(file) if file.is_file() else None


def generate(arguments: argparse.Namespace) -> int:
    if arguments.samples < 1:
        raise ConfigError(f"--samples: got {arguments.samples}, wanted at least 1")
    settings = [f"model.path={arguments.policy}", "tokenizer.kind=policy", f"seed={arguments.seed}",
                f"rollout.max_tokens={arguments.max_tokens}", NO_LEARNER]  # fmt: skip
    config = load(None, [*settings, *arguments.overrides])
    from mimosa.cluster.generation import run_generate

    return run_generate(config, arguments.prompts, arguments.out, arguments.samples, arguments.overwrite)


def tune(arguments: argparse.Namespace) -> int:
    if not 0 < arguments.minutes < math.inf:
        raise ConfigError(f"--minutes: got {arguments.minutes}, wanted a number above 0")
    config = load(arguments.config, [NO_LEARNER, *arguments.overrides])
    folder = Path(arguments.out or Path(config.run.root) / f"tune-{Path(arguments.config).stem}")
    from mimosa.cluster.tuning import run_tune

    return run_tune(config, arguments.config, folder, arguments.lengths, arguments.minutes, arguments.overwrite)


def export(arguments: argparse.Namespace) -> int:
    from mimosa.policy.blueprint import load_policy
    from mimosa.policy.checkpoint import write_state_spaces
    from mimosa.policy.tokenizer import copy_tokenizer

    model = load_policy(arguments.policy, "")
    if arguments.format == "hf":
        model.save_pretrained(arguments.out)
    else:
        write_state_spaces(model, arguments.out)
    copy_tokenizer(arguments.policy, arguments.out)
    print(f"written to {arguments.out}")
    return 0


def score(arguments: argparse.Namespace) -> int:
    from mimosa.rewards import options as words
    from mimosa.rewards import scoring

    name, options = words.parse(arguments.reward, arguments.overrides)
    if arguments.explain:
        from mimosa.rewards.explain import explain

        print(explain(arguments.rows, name, options, arguments.timeout, arguments.row))
        if not arguments.out:
            return 0
    elif arguments.row:
        raise ConfigError(f"--row: got {arguments.row!r} without --explain, wanted both or neither")
    if not arguments.out:
        raise ConfigError("--out: got nothing, wanted the file for the verdicts")
    from mimosa.observe.console import Console

    workers = scoring.processors() if arguments.workers is None else arguments.workers
    console = Console()
    with console.bar("score", scoring.count(arguments.rows) or None, rate=True) as advance:
        tally = scoring.score_file(arguments.rows, arguments.out, name, options, workers, arguments.timeout, advance)
    console.say(f"{tally.summary()} -> {arguments.out}")
    if tally.first_failure:
        console.warn(f"{tally.statuses['verifier_failed']:,} rows have no score, the first: {tally.first_failure}")
    return 130 if tally.stopped else 0


def reward_check(arguments: argparse.Namespace) -> int:
    from mimosa.cluster.reward_data import sampled
    from mimosa.rewards import options as words
    from mimosa.rewards.reward_check import check

    name, options = words.parse(arguments.reward, arguments.overrides)
    return check(sampled(arguments.data, arguments.rows), name, options, arguments.timeout)


def bench(arguments: argparse.Namespace) -> int:
    if arguments.tune:
        if arguments.what != "kernels" or arguments.sections:
            raise ConfigError("--tune: got it with other words, wanted `mimosa bench kernels --tune`")
        from mimosa.bench.launches import tune as tune_launches

        tune_launches()
        return 0
    if arguments.what == "rollout":
        from mimosa.bench.rollout import run as run_rollout

        run_rollout(arguments.sections, arguments.device)
        return 0
    if arguments.what == "rewards":
        from mimosa.bench.rewards import run
    else:
        from mimosa.bench.kernels import run

    run(arguments.sections)
    return 0


COMMANDS: dict[str, Callable[[argparse.Namespace], int]] = {
    "train": train, "sft": sft, "eval": evaluate, "generate": generate, "tune": tune, "export": export, "bench": bench,
    "score": score, "reward-check": reward_check,
}  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command. Exit status: 0 done, 2 a mistake of the user (one line says which), 130 stopped by a signal, 1 anything else."""
    parsed = parse(arguments)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")  # ours say what takes long
    warnings.filterwarnings("ignore", category=FutureWarning)
    try:
        return COMMANDS[parsed.command](parsed)
    except (ValueError, FileNotFoundError) as error:
        # What comes from an actor is nothing that was typed here; and a developer may want the traceback.
        if hasattr(error, "traceback_str") or os.environ.get("MIMOSA_TRACEBACK"):
            raise
        print(f"mimosa {parsed.command}: {str(error).strip().splitlines()[0]}", file=sys.stderr)
        return 2
    except (RunError, OSError) as error:
        if hasattr(error, "traceback_str") or os.environ.get("MIMOSA_TRACEBACK"):
            raise
        print(f"mimosa {parsed.command}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
