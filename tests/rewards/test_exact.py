"""The verifier `exact`."""

import pytest

from mimosa.records import Prompt
from mimosa.rewards.exact import Exact


@pytest.mark.parametrize(
    ("response", "boxed", "plain"),
    [
        ("\\boxed{1 0}", 1.0, 0.0),
        ("\\boxed{ 1 0 }", 1.0, 0.0),
        ("\\boxed{10}", 0.0, 0.0),
        ("\\boxed{1 0.0}", 0.0, 0.0),
        ("so\n 1 0 \n", 0.0, 1.0),
        ("so 1 0", 0.0, 0.0),
        ("1 0</think>", 0.0, 0.0),
        ("9</think>1 0", 0.0, 1.0),
        ("", 0.0, 0.0),
    ],
)
def test_scores(response, boxed, plain):
    prompt = Prompt(id="p", prompt="", verifier="exact", ground_truth=" 1 0\n")
    for verifier, score in ((Exact(), boxed), (Exact(boxed=False), plain)):
        verdict = verifier.score(response, prompt)
        assert (verdict.status, verdict.score) == ("scored", score)


def test_an_empty_ground_truth_scores_zero():
    prompt = Prompt(id="p", prompt="", verifier="exact", ground_truth=" ")
    assert Exact(boxed=False).score("", prompt).reason == "the ground truth is empty"
    assert Exact(boxed=False).score(" ", prompt).score == 0.0
