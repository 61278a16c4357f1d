"""Reward functions as users of other systems have them, with the signatures of those systems. Read by name, from this file.

Each returns what it was called with, as a component or as a text, so that a test sees the arguments.
"""

import asyncio
import json
import os
import signal
import sys
import time


def told(score, **seen):
    """A score, and what was seen as the reason."""
    return {"score": score, "reason": json.dumps(seen, default=str, sort_keys=True)}


def verl(data_source, solution_str, ground_truth, extra_info=None):
    return told(solution_str == ground_truth, data_source=data_source, extra_info=extra_info)


def verl_keywords(data_source, solution_str, ground_truth, extra_info=None, **kwargs):
    return told(1, kwargs=kwargs)


def verl_batch(data_sources, solution_strs, ground_truths, extra_infos):
    return [float(a == b) for a, b in zip(solution_strs, ground_truths, strict=True)]


def openrlhf(queries, prompts, labels, **kwargs):
    rewards = [float(q == p + label) for q, p, label in zip(queries, prompts, labels, strict=True)]
    return {"rewards": rewards, "scores": rewards, "extra_logs": {"length": [len(q) for q in queries]}}


def openrlhf_plain(queries, prompts, labels):
    return [q.endswith(label) for q, label in zip(queries, labels, strict=True)]


async def slime(args, sample, **kwargs):
    seen = {"response": sample.response, "prompt": sample.prompt, "metadata": sample.metadata, "tokens": sample.tokens}
    return told(sample.response == sample.label, strict=args.strict, status=sample.status.value, **seen)


async def slime_group(args, samples):
    await asyncio.sleep(0)
    return [sample.index / len(samples) for sample in samples]


def areal(prompt, completions, prompt_ids, completion_ids, **data):
    return (
        1.0
        if (prompt, completions, prompt_ids, completion_ids, data["answer"]) == ("6*7=", "42", [1, 2], [3], 42)
        else 0
    )


def areal_named(prompt, completions, prompt_ids, completion_ids, answer, **kwargs):
    return float(completions == str(answer))


def trl(completions, **kwargs):
    return [float(len(set(completions)) > 1) for _ in completions]


def trl_columns(
    prompts, completions, completion_ids, trainer_state, log_extra, log_metric, answer, level=None, **kwargs
):
    log_metric("seen", 1.0)
    assert trainer_state is None and len(prompts) == len(completion_ids) == len(answer) == len(kwargs["id_of_row"])
    return [None if c == "none" else float(c == str(a)) for c, a in zip(completions, answer, strict=True)]


def trl_chat(prompts, completions, solution, **kwargs):
    return [
        float(c[0]["content"] == s and p[-1]["role"] == "user")
        for p, c, s in zip(prompts, completions, solution, strict=True)
    ]


async def verifiers_one(prompt, completion, answer, state, info, task) -> float:
    assert state["completion"] is completion and prompt[-1]["role"] == "user"
    return told(float(completion[-1]["content"] == answer), info=info, task=task)


def verifiers_some(completion, answer, **kwargs) -> float:
    return float(completion[-1]["content"] == answer) * ("info" in kwargs)


def verifiers_state(state) -> float:
    return float(state["completion"][-1]["content"] == state["answer"])


def verifiers_group(completions, answers, states) -> list[float]:
    return [float(c[-1]["content"] == a) / len(states) for c, a in zip(completions, answers, strict=True)]


class Torchforge:
    def __init__(self, tolerance=0.0):
        self.tolerance = tolerance

    def __call__(self, prompt: str, response: str, target: str) -> float:
        return float(abs(float(response) - float(target)) <= self.tolerance)


def torchforge(prompt, response, target):
    return response == target


def plain(response, ground_truth):
    return response == ground_truth


def plain_group(responses, ground_truth, prompt, weight=0.5):
    return [weight * (response == ground_truth) for response in responses]


def wants_column(response, level):
    return told(1, level=level)


def minus_one_to_one(response, ground_truth):
    return 1 if response == ground_truth else -1


def unknown(alpha, beta):
    return 1.0


NO_FUNCTION = 3
VALUES = {
    "nan": float("nan"), "infinite": float("inf"), "text": "1.0", "two": 2, "list": [1.0, 1.0], "object": object(),
    "no score": {"acc": 1}, "none": None, "half": {"score": 0.5, "acc": True, "pred": "42", "deep": [1]}, "huge": 10**400,
}  # fmt: skip


def odd(response, ground_truth):
    """What the response says; the ground truth gets 1."""
    if response == ground_truth:
        return 1.0
    print("a line to standard output", flush=True)
    print("a line to standard error", file=sys.stderr, flush=True)
    if response == "sleep":
        signal.pthread_sigmask(signal.SIG_BLOCK, set(signal.Signals) - {signal.SIGKILL, signal.SIGSTOP})
        time.sleep(600)
    if response == "c code":
        pow(7**500_000, 7**500_000, 3**500_000)
    if response == "allocate":
        bytearray(50 << 30)
    if response == "fork and return":
        os.fork()
    if response == "fork and hang":
        if os.fork() == 0:
            os.setsid()
            if os.fork():
                os._exit(0)
        time.sleep(600)
    if response == "fork and fork":
        for _ in range(80):
            if os.fork() == 0:
                break
        time.sleep(600)
    if response == "exit":
        sys.exit(0)
    if response == "interrupt":
        raise KeyboardInterrupt
    if response == "deep":
        return odd("deep", ground_truth)
    return VALUES.get(response, 0.0)


def hangs(response):
    while True:
        time.sleep(1)


def dies(response):
    print("last words", file=sys.stderr, flush=True)
    os._exit(3)


def leaking(response, held=[]):  # noqa: B006 - leaks, as some do
    held.append(bytearray(60 << 20))
    return 0.5


async def slow(response):
    await asyncio.sleep(30 if response == "late" else 0.4)
    return 1.0


async def blocking(response):
    if response == "late":
        time.sleep(30)
    return 1.0
