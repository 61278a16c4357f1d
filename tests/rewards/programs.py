"""Rows of public benchmarks as prompts of the verifier `code`, read from ../shared, and mutations of their solutions."""

import ast
import gzip
import json
from pathlib import Path

from mimosa.records import Prompt

DATA = Path(__file__).parents[3] / "shared" / "data"


def prompt(tests, name="p"):
    return Prompt(name, "", "code", "", fields={"tests": tests})


def human_eval():
    """(prompt, canonical solution, name of the function) of 164 tasks."""
    rows = []
    with gzip.open(DATA / "HumanEval.jsonl.gz", "rt") as file:
        for row in map(json.loads, file):
            tests = {"kind": "assert", "entry_point": row["entry_point"], "code": row["test"], "prelude": row["prompt"]}
            rows.append((prompt(tests, row["task_id"]), row["prompt"] + row["canonical_solution"], row["entry_point"]))
    return rows


def mbpp():
    """(prompt, solution, name of the function) of 974 tasks; the function is the first of the solution's that an assertion calls."""
    rows = []
    with open(DATA / "mbpp.jsonl") as file:
        for row in map(json.loads, file):
            entry = called(row["test_list"][0], row["code"])
            lines = "".join(f"    {one.strip()}\n" for one in row["test_list"])
            tests = {
                "kind": "assert", "entry_point": entry, "code": f"def check(candidate):\n{lines}", "prelude": row["test_setup_code"],
            }  # fmt: skip
            rows.append((prompt(tests, str(row["task_id"])), row["code"], entry))
    return rows


def called(assertion, code):
    defined = {node.name for node in ast.walk(ast.parse(code)) if isinstance(node, ast.FunctionDef)}
    for node in ast.walk(ast.parse(assertion.strip())):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in defined:
            return node.func.id
    raise ValueError(assertion)


def mutant(code, entry):
    """The solution with its function's result wrapped, so that every value it returns is another one."""
    wrapper = f"\n\n_first_{entry} = {entry}\ndef {entry}(*args, **named):\n    return ('mutant', _first_{entry}(*args, **named))\n"
    return code + wrapper
