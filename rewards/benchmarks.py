"""Rows of public benchmarks in the form that `score` and `reward-check` take; `python -m mimosa.rewards.benchmarks IN OUT` writes them.

Recognised by their columns: HumanEval, MBPP (also its sanitized form), GSM8K, MATH. A benchmark's own solution becomes the `response`.
"""

from __future__ import annotations

import ast
import json
import sys
from collections.abc import Mapping
from typing import Any

from . import extraction, rows

MARK = "####"  # before GSM8K's answers


def converted(columns: Mapping[str, Any]) -> Mapping[str, Any]:
    """`columns` as a row with id, prompt, response where the benchmark has one, and ground_truth or tests; others as they are."""
    if {"entry_point", "canonical_solution", "test", "prompt"} <= columns.keys():
        return _human_eval(columns)
    if {"code", "test_list"} <= columns.keys():
        return _mbpp(columns)
    if "ground_truth" in columns or "tests" in columns:
        return columns
    if {"question", "answer"} <= columns.keys() and MARK in str(columns["answer"]):
        truth = str(columns["answer"]).rpartition(MARK)[2].strip()
        return {**columns, "prompt": columns["question"], "ground_truth": truth}
    if {"problem", "solution"} <= columns.keys():
        truth = extraction.boxed(str(columns["solution"]))[0] or ""
        return {**columns, "prompt": columns["problem"], "ground_truth": truth, "response": columns["solution"]}
    return columns


def _human_eval(columns: Mapping[str, Any]) -> dict[str, Any]:
    """The prompt is the tests' prelude too: a few of them call its helpers."""
    return {
        "id": columns.get("task_id"),
        "prompt": columns["prompt"],
        "response": columns["prompt"] + columns["canonical_solution"],
        "tests": {"kind": "assert", "entry_point": columns["entry_point"], "code": columns["test"],
                  "prelude": columns["prompt"]},
    }  # fmt: skip


def _mbpp(columns: Mapping[str, Any]) -> dict[str, Any]:
    lines = "".join(f"    {one.strip()}\n" for one in columns["test_list"])
    setup = columns.get("test_setup_code") or "\n".join(columns.get("test_imports") or ())
    return {
        "id": columns.get("task_id"),
        "prompt": columns.get("text") or columns.get("prompt", ""),
        "response": columns["code"],
        "tests": {"kind": "assert", "entry_point": _called(columns["test_list"][0], columns["code"]),
                  "code": f"def check(candidate):\n{lines}", "prelude": setup},
    }  # fmt: skip


def _called(assertion: str, code: str) -> str:
    """The first function of the solution that an assertion calls."""
    defined = {node.name for node in ast.walk(ast.parse(code)) if isinstance(node, ast.FunctionDef)}
    for node in ast.walk(ast.parse(assertion.strip())):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in defined:
            return node.func.id
    raise ValueError(f"test_list: got {assertion!r}, wanted a call of a function that `code` defines")


def main() -> None:
    """argv: a JSON Lines file of a benchmark, and the file for its rows."""
    if len(sys.argv) != 3:
        sys.exit("usage: python -m mimosa.rewards.benchmarks IN.jsonl OUT.jsonl")
    rows.check(sys.argv[1])
    with rows.opened(sys.argv[1]) as source, open(sys.argv[2], "w") as target:
        for line in rows.lines(source):
            target.write(json.dumps(converted(json.loads(line))) + "\n")


if __name__ == "__main__":
    main()
