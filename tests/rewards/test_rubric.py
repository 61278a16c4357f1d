"""Weighted sums of verifiers."""

from pathlib import Path

import pytest

from mimosa.records import Prompt, Verdict
from mimosa.rewards import registry
from mimosa.rewards.rubric import Part, Rubric
from mimosa.rewards.verifier import Answer, BatchVerifier, scored, skipped, verifier_failed

FILE = Path(__file__).parent / "foreign.py"
ROW = Prompt("row 7", "6*7=", "", "42")


class Says:
    """A verifier that says what it was given."""

    name = "says"

    def __init__(self, verdict):
        self.verdict, self.closed = verdict, 0

    def score(self, response, prompt, *, truncated=False):
        return self.verdict

    def close(self):
        self.closed += 1


def rubric(*parts):
    return Rubric([Part(f"p{number}", weight, Says(verdict)) for number, (weight, verdict) in enumerate(parts)])


def test_the_sum_is_divided_by_the_weights():
    verdict = rubric((3.0, scored(1.0, "a")), (1.0, scored(0.5, "b"))).score("", ROW)
    assert (verdict.status, verdict.score) == ("scored", 3.5 / 4)
    assert verdict.components == {"p0": 1.0, "p1": 0.5}
    assert verdict.reason == "p0 1 (a); p1 0.5 (b)"


def test_a_part_of_weight_0_is_recorded_alone():
    verdict = rubric((1.0, scored(1.0, "a")), (0.0, scored(0.25, "b"))).score("", ROW)
    assert (verdict.score, verdict.components) == (1.0, {"p0": 1.0, "p1": 0.25})


def test_one_failed_part_fails_the_whole():
    verdict = rubric((1.0, scored(1.0, "a")), (0.0, verifier_failed("gone"))).score("", ROW)
    assert (verdict.status, verdict.score, verdict.reason) == ("verifier_failed", None, "p1: gone")
    unsound = rubric((1.0, scored(1.0, "a")), (1.0, Verdict("scored", 7.0, ""))).score("", ROW)
    assert unsound.status == "verifier_failed" and "p1" in unsound.reason and "score 7.0" in unsound.reason


def test_skipped_parts_are_left_out_of_both_sums():
    verdict = rubric((3.0, skipped("not mine")), (1.0, scored(0.5, "b"))).score("", ROW)
    assert (verdict.score, verdict.components) == (0.5, {"p1": 0.5})
    verdict = rubric((1.0, skipped("not mine")), (0.0, scored(0.5, "b"))).score("", ROW)
    assert (verdict.status, verdict.score) == ("skipped", None)


def test_by_settings_with_functions_and_groups():
    parts = [
        {"verifier": "exact", "weight": 2, "options": {"boxed": False}},
        {"verifier": f"{FILE}:trl", "name": "varied"},
        {"verifier": f"{FILE}:openrlhf", "weight": 1},
        {"verifier": "exact", "weight": 0},
    ]
    registry.check("rubric", {"parts": parts})
    verifier = registry.create("rubric", {"parts": parts}, 20.0)
    assert isinstance(verifier, BatchVerifier) and verifier.grouped
    first, second = verifier.score_all([Answer(ROW, text, group="g") for text in ("42", "7")])
    verifier.close()
    assert (first.score, second.score) == (1.0, 0.25)
    assert first.components == {
        "exact": 1.0, "varied": 1.0, "foreign.py:openrlhf": 1.0, "foreign.py:openrlhf.length": 6.0,
        "foreign.py:openrlhf.scores": 1.0, "exact#4": 0.0,
    }  # fmt: skip


def test_closing_closes_the_parts():
    verifier = rubric((1.0, scored(1.0, "a")), (1.0, scored(1.0, "a")))
    verifier.close()
    assert [part.verifier.closed for part in verifier._parts] == [1, 1]


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        (None, "option 'parts' of verifier 'rubric' is None, wanted a list of {verifier, weight, options, name}"),
        ([], "is [], wanted a list"),
        ([{"weight": 1}], "part 1 is {'weight': 1}, wanted a mapping with verifier"),
        ([{"verifier": "mth"}], "unknown verifier 'mth'"),
        ([{"verifier": "math"}, {"verifier": "exact", "wieght": 1}], "part 2: unknown key 'wieght'"),
        ([{"verifier": "math", "weight": -1}], "wanted a weight of 0 or more"),
        ([{"verifier": "math", "weight": 0}], "every weight is 0, wanted one above"),
        ([{"verifier": "math", "options": {"x": 1}}], "unknown option 'x' of verifier 'math'"),
        ([{"verifier": f"{FILE}:unknown"}], "those of no known interface"),
    ],
)
def test_a_mistake_is_named(parts, words):
    with pytest.raises(ValueError) as caught:
        registry.check("rubric", {} if parts is None else {"parts": parts})
    assert words in str(caught.value) and "\n" not in str(caught.value)
