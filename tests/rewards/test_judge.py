"""From completions to verdicts: truncation, retries and what foreign verifiers may do wrong."""

import numpy as np
import pytest

from mimosa.records import Completion, Prompt, Verdict
from mimosa.rewards import registry
from mimosa.rewards.judge import Judge
from mimosa.rewards.verifier import one_line, scored, skipped, verifier_failed


def completion(text, finish_reason="stop"):
    return Completion(
        "u", 0, np.array([1, 2], np.int32), np.zeros(2, np.float32), np.zeros(2, np.int32), finish_reason, text
    )


def prompt(verifier="math", ground_truth="42"):
    return Prompt(id="row 7", prompt="6*7=", verifier=verifier, ground_truth=ground_truth)


class Foreign:
    """A verifier whose next answers are given: exceptions are raised, all else is returned."""

    name = "foreign"
    made = closed = 0

    def __init__(self, *, timeout, answers=()):
        self.answers, self.calls, self.timeout = list(answers), 0, timeout
        Foreign.made += 1

    def score(self, response, prompt, *, truncated=False):
        self.truncated = truncated
        self.calls += 1
        answer = self.answers[min(self.calls, len(self.answers)) - 1]
        if isinstance(answer, BaseException):
            raise answer
        return answer

    def close(self):
        Foreign.closed += 1


@pytest.fixture
def foreign(monkeypatch):
    monkeypatch.setitem(registry.BUILT_IN, "foreign", Foreign)
    Foreign.made = Foreign.closed = 0

    def judge(*answers, **settings):
        return Judge("foreign", {"answers": answers}, **settings)

    return judge


def test_right_and_wrong_with_the_seconds_it_took():
    with Judge() as judge:
        right, wrong = (
            judge.judge(prompt(), completion("\\boxed{42}")),
            judge.judge(prompt(), completion("\\boxed{41}")),
        )
    assert (right.status, right.score, wrong.status, wrong.score) == ("scored", 1.0, "scored", 0.0)
    assert 0.0 < right.seconds < 1.0


@pytest.mark.parametrize(
    ("truncated", "wanted"),
    [
        ("zero", ("scored", 0.0, "truncated")),
        ("mask", ("skipped", None, "truncated")),
        ("score", ("scored", 1.0, "equal as text")),
    ],
)
def test_truncated_completions_go_by_the_rule(truncated, wanted):
    with Judge(truncated=truncated) as judge:
        verdict = judge.judge(prompt(), completion("\\boxed{42}", "length"))
        assert (verdict.status, verdict.score, verdict.reason) == wanted
        assert judge.judge(prompt(), completion("\\boxed{42}")).score == 1.0


def test_a_judged_truncated_completion_is_announced(foreign):
    judge = foreign(scored(0.5, "half"), truncated="score")
    judge.judge(prompt("foreign"), completion("", "length"))
    assert judge._verifiers["foreign"].truncated is True
    judge.judge(prompt("foreign"), completion(""))
    assert judge._verifiers["foreign"].truncated is False


def test_each_prompt_names_its_verifier_and_options_go_to_the_default_one_alone(foreign):
    judge = Judge("exact", {"boxed": False})
    assert judge._verifiers == {}
    assert judge.judge(prompt("exact"), completion("42")).score == 1.0
    assert judge.judge(prompt("math"), completion("42")).score == 0.0
    assert judge.judge(prompt("math"), completion("\\boxed{42.0}")).score == 1.0
    assert judge.judge(prompt(""), completion("42")).score == 1.0
    task = '{"numbers": [6, 7], "target": 42}'
    assert judge.judge(prompt("countdown", task), completion("\\boxed{6*7}")).score == 1.0
    assert sorted(judge._verifiers) == ["countdown", "exact", "math"]
    judge.close()
    assert judge._verifiers == {}


def test_verifiers_are_made_once_and_closed(foreign):
    judge = foreign(scored(1.0, "fine"), timeout=7.0)
    assert Foreign.made == 0
    for _ in range(3):
        assert judge.judge(prompt("foreign"), completion("")).score == 1.0
    assert (Foreign.made, judge._verifiers["foreign"].timeout) == (1, 7.0)
    judge.close()
    assert Foreign.closed == 1


def test_a_failure_is_retried(foreign):
    judge = foreign(OSError("gone"), verifier_failed("busy"), scored(0.25, "at last"), retries=2)
    verdict = judge.judge(prompt("foreign"), completion(""))
    assert (verdict.status, verdict.score, verdict.reason) == ("scored", 0.25, "at last")
    assert judge._verifiers["foreign"].calls == 3


@pytest.mark.parametrize("retries", [0, 1, 3])
def test_a_lasting_failure_is_no_score_and_names_its_place(foreign, retries):
    judge = foreign(RuntimeError("line one\nline two \ud800"), retries=retries)
    verdict = judge.judge(prompt("foreign"), completion(""))
    assert (verdict.status, verdict.score) == ("verifier_failed", None)
    assert verdict.reason == "verifier 'foreign' raised RuntimeError on prompt 'row 7': line one line two \\ud800"
    assert judge._verifiers["foreign"].calls == retries + 1


class Mute(Exception):
    def __str__(self):
        raise ValueError


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (1.0, "returned float, wanted a Verdict"),
        (None, "returned NoneType"),
        ("1", "returned str"),
        (Verdict("scored", float("nan"), ""), "returned score nan"),
        (Verdict("scored", float("inf"), ""), "returned score inf"),
        (Verdict("scored", 1.5, ""), "returned score 1.5"),
        (Verdict("scored", -0.1, ""), "returned score -0.1"),
        (Verdict("scored", None, ""), "returned score None"),
        (Verdict("scored", "1", ""), "returned score '1'"),
        (Verdict("maybe", 1.0, ""), "returned status 'maybe'"),
        (Mute(), "raised Mute"),
        (MemoryError(), "raised MemoryError"),
    ],
)
def test_an_unsound_verdict_is_the_verifiers_failure(foreign, answer, words):
    verdict = foreign(answer, retries=0).judge(prompt("foreign"), completion(""))
    assert (verdict.status, verdict.score) == ("verifier_failed", None)
    assert words in verdict.reason and "'foreign'" in verdict.reason and "'row 7'" in verdict.reason


def test_sound_verdicts_are_passed_on_in_plain_types(foreign):
    judge = foreign(
        Verdict("scored", np.float32(0.5), "two\nlines", components={"a": 1.0}),
        Verdict("scored", 1, "x" * 1000),
        skipped("not for me"),
    )
    first, second, third = (judge.judge(prompt("foreign"), completion("")) for _ in range(3))
    assert (type(first.score), first.score, first.reason, first.components) == (float, 0.5, "two lines", {"a": 1.0})
    assert (type(second.score), second.score, len(second.reason)) == (float, 1.0, 300)
    assert (third.status, third.score, third.reason) == ("skipped", None, "not for me")


def test_an_interrupt_is_not_swallowed(foreign):
    with pytest.raises(KeyboardInterrupt):
        foreign(KeyboardInterrupt()).judge(prompt("foreign"), completion(""))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"truncated": "drop"}, "reward.truncated is 'drop', wanted one of zero, score, mask"),
        ({"verifier": "maths"}, "unknown verifier 'maths'; nearest known: 'math'"),
        ({"options": {"boxed": True}}, "unknown option 'boxed' of verifier 'math'"),
        ({"retries": -1}, "verifier.retries is -1"),
    ],
)
def test_a_wrong_setting_is_named_at_once(settings, words):
    with pytest.raises(ValueError) as caught:
        Judge(**settings)
    assert words in str(caught.value)


def test_a_prompt_with_an_unknown_verifier_stops_with_its_id():
    with pytest.raises(ValueError, match="prompt 'row 7': unknown verifier 'mth'; nearest known: 'math'"):
        Judge().judge(prompt("mth"), completion(""))


def test_reasons_fit_on_a_line_whatever_they_hold():
    assert one_line("plain") == "plain"
    assert one_line("a\n\tb\x00\ud800é") == "a b\\x00\\ud800\\xe9"
    assert len(one_line("x" * 10_000)) == 300


class Grouped:
    """A verifier of groups: the score is the rank within what it is asked for together; its first `failures` calls fail on "bad"."""

    name = "grouped"
    grouped = True

    def __init__(self, *, timeout, failures=0):
        self.calls, self.failures = [], failures

    def score(self, response, prompt, *, truncated=False):
        raise AssertionError("asked alone")

    def score_all(self, answers):
        self.calls.append([answer.text for answer in answers])
        self.failures -= 1
        found = [scored(place / len(answers), "rank") for place in range(len(answers))]
        return [
            verifier_failed("busy") if answer.text == "bad" and self.failures >= 0 else one
            for answer, one in zip(answers, found, strict=True)
        ]

    def close(self):
        pass


@pytest.fixture
def grouped(monkeypatch):
    monkeypatch.setitem(registry.BUILT_IN, "grouped", Grouped)


def of_group(uid, *texts, finish_reason="stop"):
    ids = np.array([1, 2], np.int32)
    return [
        Completion(uid, i, ids, np.zeros(2, np.float32), np.zeros(2, np.int32), finish_reason, text)
        for i, text in enumerate(texts)
    ]


def test_items_keep_their_order_whatever_judges_them(grouped):
    x, y = of_group("a", "x", "y")
    box, cut = completion("\\boxed{42}"), completion("", "length")
    with Judge("grouped") as judge:
        verdicts = judge.judge_all(
            [(prompt("grouped"), x), (prompt("exact"), box), (prompt("math"), cut), (prompt("grouped"), y)]
        )
    assert [verdict.score for verdict in verdicts] == [0.0, 1.0, 0.0, 0.5]
    assert all(verdict.seconds > 0 for verdict in verdicts if verdict.reason != "truncated")


def test_a_failure_in_a_group_asks_for_the_whole_group_again(grouped):
    items = [
        (prompt("grouped"), one) for uid in "ab" for one in of_group(uid, *{"a": ("x", "bad"), "b": ("y", "z")}[uid])
    ]
    judge = Judge("grouped", {"failures": 1})
    verdicts = judge.judge_all(items)
    assert judge._verifiers["grouped"].calls == [["x", "bad", "y", "z"], ["x", "bad"]]
    assert [verdict.score for verdict in verdicts] == [0.0, 0.5, 0.5, 0.75]


def test_a_verifier_of_groups_sees_what_no_rule_decided(grouped):
    items = [
        (prompt("grouped"), one) for one in (*of_group("a", "x", "y"), *of_group("a", "cut", finish_reason="length"))
    ]
    judge = Judge("grouped")
    assert [verdict.reason for verdict in judge.judge_all(items)] == ["rank", "rank", "truncated"]
    assert judge._verifiers["grouped"].calls == [["x", "y"]]


def test_tokens_reach_a_verifier_that_asks_for_them(monkeypatch):
    seen = []

    class Tokens(Grouped):
        def score_all(self, answers):
            seen.extend((list(a.prompt_ids), list(a.token_ids), a.number, a.group) for a in answers)
            return super().score_all(answers)

    monkeypatch.setitem(registry.BUILT_IN, "tokens", Tokens)
    Judge("tokens").judge_all([(prompt("tokens"), one) for one in of_group("a", "x", "y")], {"a": np.array([5, 6])})
    assert seen == [([5, 6], [1, 2], 0, "a"), ([5, 6], [1, 2], 1, "a")]


class Counts:
    name = "counts"
    grouped = False

    def __init__(self, *, timeout):
        pass

    def score(self, response, prompt, *, truncated=False):
        raise AssertionError("asked alone")

    def score_all(self, answers):
        if any(answer.text == "raise" for answer in answers):
            raise RuntimeError("all of it")
        return [scored(1.0, "")] * (len(answers) - 1)

    def close(self):
        pass


def test_a_batch_that_raises_or_comes_back_short_is_the_verifiers_failure(monkeypatch):
    monkeypatch.setitem(registry.BUILT_IN, "counts", Counts)
    judge = Judge("counts", retries=0)
    short = judge.judge_all([(prompt("counts"), one) for one in of_group("a", "x", "y")])
    assert {verdict.reason for verdict in short} == {"verifier 'counts' returned 1 verdicts for 2 answers"}
    raised = judge.judge_all([(prompt("counts"), one) for one in of_group("a", "x", "raise")])
    assert [verdict.status for verdict in raised] == ["verifier_failed"] * 2
    assert "raised RuntimeError on prompt 'row 7': all of it" in raised[0].reason


@pytest.mark.parametrize("components", [{"a": float("nan")}, {"a": "1"}, {1: 1.0}, [1.0]])
def test_components_that_cannot_be_recorded_are_the_verifiers_failure(foreign, components):
    verdict = foreign(Verdict("scored", 1.0, "", components=components), retries=0).judge(
        prompt("foreign"), completion("")
    )
    assert verdict.status == "verifier_failed" and "components that are no finite numbers by name" in verdict.reason


def test_a_row_cannot_name_a_file_or_an_address_of_its_own():
    for spec in ("/tmp/evil.py:f", "os:system", "http://127.0.0.1:1/"):
        with pytest.raises(ValueError, match="prompt 'row 7': unknown verifier"):
            Judge().judge(prompt(spec), completion(""))
