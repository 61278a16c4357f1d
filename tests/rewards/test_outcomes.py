"""Returned values as scores."""

from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest

from mimosa.rewards.outcomes import Outcome, Scale, Unsound, several, single

PLAIN = Scale()


@pytest.mark.parametrize(
    ("value", "score"),
    [
        (0.25, 0.25), (1, 1.0), (True, 1.0), (np.float32(0.5), 0.5), (np.bool_(True), 1.0), (np.array(0.25), 0.25),
        (np.array([0.25]), 0.25), ([0.5], 0.5), (Fraction(1, 4), 0.25), (Decimal("0.25"), 0.25), (1 + 1e-9, 1.0), (-1e-9, 0.0),
        ({"score": np.float64(0.5)}, 0.5), (iter([0.5]), 0.5),
    ],
)  # fmt: skip
def test_numbers_of_every_kind(value, score):
    assert single(value, PLAIN).score == pytest.approx(score, abs=0)
    assert type(single(1, PLAIN).score) is float


@pytest.mark.parametrize(
    "value", [float("nan"), -float("inf"), 1.1, -0.1, "1", b"1", [], [1, 1], {}, {"reward": 1}, object(), 1j]
)
def test_what_is_no_score(value):
    with pytest.raises(Unsound):
        single(value, PLAIN)


def test_a_scale_is_mapped_linearly():
    scale = Scale(-2.0, 3.0)
    assert [single(value, scale).score for value in (-2, 0.5, 3)] == [0.0, 0.5, 1.0]
    with pytest.raises(Unsound, match="wanted one from -2 to 3; the options low and high name another scale"):
        single(3.1, scale)
    for low, high in ((1.0, 1.0), (2.0, 1.0), (float("nan"), 1.0), (0.0, float("inf"))):
        with pytest.raises(ValueError, match="low and high"):
            Scale(low, high)


def test_a_mapping_has_score_components_and_words():
    found = single(
        {"score": 0.5, "acc": True, "pred": "42", "nan": float("nan"), "deep": {"a": 1}, "components": {"x": 2}}, PLAIN
    )
    assert (found.score, found.components, found.reason) == (0.5, {"acc": 1.0, "x": 2.0}, "pred: 42")
    found = single({"reward": 0.5, "score": 0.25, "reason": "fine"}, Scale(key="reward"))
    assert (found.score, found.components, found.reason) == (0.5, {"score": 0.25}, "fine")
    assert single({"score": None, "reason": "no code here"}, PLAIN) == Outcome("skipped", None, "no code here")
    assert len(single({"score": 1, **{f"n{i}": i for i in range(99)}}, PLAIN).components) == 32


def test_a_reason_has_a_length():
    assert len(single({"score": 1, "reason": "x" * 10**6}, PLAIN).to_dict()["reason"]) == 2000


def test_lists_arrays_and_mappings_of_lists():
    for value in (
        [0, 0.5, 1],
        (0, 0.5, 1),
        np.array([0, 0.5, 1]),
        {"rewards": [0, 0.5, 1]},
        {"score": np.array([0, 0.5, 1])},
    ):
        assert [one.score for one in several(value, 3, PLAIN)] == [0.0, 0.5, 1.0]
    first, second, third = several([{"score": 1, "a": 2}, None, "1"], 3, PLAIN)
    assert (first.score, first.components, second.status) == (1.0, {"a": 2.0}, "skipped")
    assert third == "returned str '1', wanted a number"
    found = several(
        {"rewards": [1, 0], "scores": [0.5, 0.25], "extra_logs": {"length": np.array([3, 4])}, "n": 2}, 2, PLAIN
    )
    assert [one.components for one in found] == [{"scores": 0.5, "length": 3.0}, {"scores": 0.25, "length": 4.0}]
    assert [one.status for one in several(None, 2, PLAIN)] == ["skipped"] * 2
    assert several({"rewards": 1.0}, 1, PLAIN)[0].score == 1.0


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ([1.0], "returned 1 scores for 2 answers"),
        ([1.0] * 3, "returned 3 scores for 2 answers"),
        (1.0, "returned float 1.0, wanted a list of 2 scores"),
        ("11", "returned str '11', wanted a list of 2 scores"),
        ({"rewards": [1.0]}, "returned 1 scores for 2 answers"),
        ({"rewards": 1.0}, "returned float 1.0 as 'rewards', wanted a list of 2 scores"),
        ({"values": [1, 1]}, "neither 'score' nor 'rewards'"),
    ],
)
def test_what_is_no_list_of_scores(value, words):
    with pytest.raises(Unsound, match=words):
        several(value, 2, PLAIN)
