"""Public benchmarks: their own solutions score 1, mutants of them 0. The whole sets are marked slow."""

import pytest
from programs import DATA, human_eval, mbpp, mutant

from mimosa.rewards.code_tests import CodeTests
from mimosa.rewards.judge_link import JudgeLost, JudgeRefused

SETS = {"HumanEval": ("HumanEval.jsonl.gz", human_eval, 164), "MBPP": ("mbpp.jsonl", mbpp, 974)}
SPECIAL = (
    "40",
    "88",
    "367",
    "533",
    "601",
    "653",
    "902",
    "927",
    "56",
    "596",
)  # Counters, own classes, types; check, sys


@pytest.fixture(scope="module")
def verifier():
    verifier = CodeTests(timeout=30.0)  # MBPP 123 alone computes for seconds
    try:
        verifier.start()
    except (JudgeRefused, JudgeLost) as refused:
        pytest.skip(f"no sandbox here: {refused}")
    yield verifier
    verifier.close()


def rows_of(name):
    file, rows, count = SETS[name]
    if not (DATA / file).exists():
        pytest.skip(f"{file} is not in ../shared/data")
    found = rows()
    assert len(found) == count
    return found


def not_right(verifier, rows):
    verdicts = [
        (row.id, verifier.score(code, row), verifier.score(mutant(code, entry), row)) for row, code, entry in rows
    ]
    return [verdict for verdict in verdicts if (verdict[1].score, verdict[2].score) != (1.0, 0.0)]


@pytest.mark.parametrize("name", SETS)
def test_a_sample_of_the_solutions(verifier, name):
    rows = rows_of(name)
    assert not_right(verifier, rows[:: len(rows) // 25][:26]) == []


def test_tasks_whose_tests_hand_over_more_than_plain_values(verifier):
    rows = [row for row in rows_of("MBPP") if row[0].id in SPECIAL]
    assert len(rows) == len(SPECIAL)
    assert not_right(verifier, rows) == []


@pytest.mark.slow
@pytest.mark.parametrize("name", SETS)
def test_all_solutions(verifier, name):
    assert not_right(verifier, rows_of(name)) == []
