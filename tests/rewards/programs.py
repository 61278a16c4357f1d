"""Rows of public benchmarks as prompts of the verifier `code`, read from ../shared, and mutations of their solutions."""

import gzip
import json
from pathlib import Path

from mimosa.records import Prompt
from mimosa.rewards.benchmarks import converted

DATA = Path(__file__).parents[3] / "shared" / "data"


def prompt(tests, name="p"):
    return Prompt(name, "", "code", "", fields={"tests": tests})


def human_eval():
    """(prompt, canonical solution, name of the function) of 164 tasks."""
    with gzip.open(DATA / "HumanEval.jsonl.gz", "rt") as file:
        return [task(converted(row)) for row in map(json.loads, file)]


def mbpp():
    """(prompt, solution, name of the function) of 974 tasks; the function is the first of the solution's that an assertion calls."""
    with open(DATA / "mbpp.jsonl") as file:
        return [task(converted(row)) for row in map(json.loads, file)]


def task(row):
    return prompt(row["tests"], str(row["id"])), row["response"], row["tests"]["entry_point"]


def mutant(code, entry):
    """The solution with its function's result wrapped, so that every value it returns is another one."""
    wrapper = f"\n\n_first_{entry} = {entry}\ndef {entry}(*args, **named):\n    return ('mutant', _first_{entry}(*args, **named))\n"
    return code + wrapper
