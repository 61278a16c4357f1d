"""What is said aloud of verifiers, and the rates of a step."""

import math

import numpy as np
import pytest

from mimosa.observe.alarms import VerifierAlarms
from mimosa.observe.metrics import rollout_metrics
from mimosa.observe.run_folder import rollout_rows
from mimosa.records import Completion, Group, Prompt, Request, Verdict
from mimosa.rewards.verifier import scored, skipped, verifier_failed


def group(*judged, verifier="math", row="row 7"):
    """Of (text, verdict) pairs."""
    completions = tuple(
        Completion("u", i, np.ones(2, np.int32), np.zeros(2, np.float32), np.zeros(2, np.int32), "stop", text)
        for i, (text, _) in enumerate(judged)
    )
    request = Request("u", np.ones(1, np.int32), len(judged))
    return Group(Prompt(row, "q", verifier, "1"), request, completions, tuple(verdict for _, verdict in judged))


@pytest.fixture
def said():
    return []


def alarms(said, share=0.5, window=4):
    return VerifierAlarms(said.append, share, window)


def test_failures_are_told_once_by_their_reason(said):
    looks = alarms(said, window=1000)
    broken = group(*[("a", verifier_failed("f on row 'x': raised"))] * 2, *[("b", scored(1.0, "fine"))] * 3)
    looks.look(1, [broken])
    assert said == ["step 1: 2 judgements failed: f on row 'x': raised"]
    looks.look(2, [broken])
    assert len(said) == 1


def test_many_reasons_are_told_a_few_at_a_time(said):
    looks = alarms(said, share=1.0)
    step = group(*[("a", verifier_failed(f"reason {i}")) for i in range(8)])
    looks.look(1, [step])
    assert len(said) == 6 and said[5] == "step 1: judgements failed for 3 more reasons"
    looks.look(2, [step])
    assert [line for line in said if "reason 7" in line] == ["step 2: a judgement failed: reason 7"]


def test_a_share_above_the_limit(said):
    alarms(said, share=0.5).look(1, [group(*[("a", verifier_failed("f"))] * 2, *[("b", scored(1.0, ""))] * 2)])
    assert len(said) == 1
    alarms(said, share=0.4).look(3, [group(*[("a", verifier_failed("f"))] * 2, *[("b", scored(1.0, ""))] * 2)])
    assert said[-1] == (
        "step 3: 50.0% of the judgements failed, more than verifier.alarm_share=0.4; their reasons are in rollouts/"
    )


def test_one_value_for_a_window_is_told_until_there_is_another(said):
    looks = alarms(said)
    looks.look(1, [group(*[("a", scored(0.0, "no"))] * 3)])
    assert not said  # the window is not full
    looks.look(2, [group(*[("a", scored(0.0, "no"))] * 3)])
    assert said == [
        "step 2: verifier math gave 0 to 4 of the last 4 answers: it tells nothing apart, or the task is far too hard or too easy"
    ]
    looks.look(3, [group(*[("a", scored(0.0, "no"))] * 3)])
    assert len(said) == 1
    looks.look(4, [group(("a", scored(1.0, "yes")))])
    looks.look(5, [group(*[("a", scored(1.0, "yes"))] * 4)])
    assert len(said) == 2 and "gave 1 to 4" in said[1]


def test_what_a_rule_decided_says_nothing_of_the_verifier(said):
    looks = alarms(said)
    looks.look(1, [group(*[("", scored(0.0, "truncated"))] * 9)])
    assert not said
    rates = rollout_metrics([group(("a", scored(0.0, "truncated")), ("b", scored(1.0, "yes")))], 0)
    assert (rates["reward/mean"], rates["verifier/math/score_mean"]) == (0.5, 1.0)


def test_a_score_for_an_empty_answer_is_told_once(said):
    looks = alarms(said)
    looks.look(1, [group((" \n", scored(0.5, "yes")), ("", scored(0.5, "yes")), ("", scored(0.0, "no")))])
    assert said == ["verifier math gave 0.5 to an empty answer (row 'row 7'): it may reward nothing at all"]


def test_rates_and_components_by_verifier():
    groups = [
        group(("a", scored(1.0, "")), ("b", verifier_failed("f")), ("c", skipped("s")), ("d", scored(0.5, ""))),
        group(("a", Verdict("scored", 0.25, "", 0.0, {"mean": 2.0})), verifier="/x/my.py:f"),
        group(("a", verifier_failed("f")), verifier="http://host:1/run"),
    ]
    row = rollout_metrics(groups, 0)
    assert (row["verifier/math/score_mean"], row["verifier/math/failed_share"], row["verifier/math/skipped_share"]) == (
        0.75, 0.25, 0.25,
    )  # fmt: skip
    assert (row["verifier/my.py:f/score_mean"], row["component/mean"]) == (0.25, 2.0)
    assert math.isnan(row["verifier/host:1_run/score_mean"]) and row["verifier/host:1_run/failed_share"] == 1.0
    assert row["reward/mean"] == pytest.approx((1 + 0.5 + 0.25) / 3)


def test_reason_and_components_reach_the_record():
    verdict = Verdict("scored", 0.25, "why", 0.0, {"format": 1.0})
    (row,) = rollout_rows(3, group(("a", verdict), verifier="rubric"))
    assert (row["verifier"], row["status"], row["score"], row["reason"]) == ("rubric", "scored", 0.25, "why")
    assert row["components"] == {"format": 1.0}
