"""Verifiers by name."""

from importlib.metadata import EntryPoint

import pytest

from mimosa.records import Prompt
from mimosa.rewards import registry
from mimosa.rewards.countdown import Countdown
from mimosa.rewards.exact import Exact
from mimosa.rewards.function import Function
from mimosa.rewards.math_answer import MathAnswer
from mimosa.rewards.verifier import Verifier, scored


class Length:
    """A verifier as another package would write it."""

    name = "length"

    def __init__(self, *, timeout, limit=10):
        self.timeout, self.limit = timeout, limit

    def score(self, response, prompt, *, truncated=False):
        return scored(float(len(response) <= self.limit), "length")

    def close(self):
        pass


class Point:
    name = "length"

    def load(self):
        return Length


@pytest.fixture
def installed(monkeypatch):
    monkeypatch.setattr(registry, "entry_points", lambda group: [Point()] if group == "mimosa.verifiers" else [])


@pytest.mark.parametrize(("name", "kind"), [("math", MathAnswer), ("exact", Exact), ("countdown", Countdown)])
def test_built_in(name, kind):
    verifier = registry.create(name, {}, timeout=2.0)
    assert type(verifier) is kind and verifier.name == name and isinstance(verifier, Verifier)
    verifier.close()
    verifier.close()


def test_options_reach_the_verifier():
    prompt = Prompt(id="p", prompt="", verifier="exact", ground_truth="7")
    assert registry.create("exact", {"boxed": False}, timeout=1.0).score("7", prompt).score == 1.0
    assert registry.create("exact", {}, timeout=1.0).score("7", prompt).score == 0.0


def test_entry_points(installed):
    assert registry.known() == ["code", "countdown", "exact", "length", "math", "rubric"]
    verifier = registry.create("length", {"limit": 3}, timeout=4.0)
    assert (type(verifier), verifier.timeout, verifier.limit) == (Length, 4.0, 3)


def test_an_entry_point_may_name_a_plain_reward_function(monkeypatch, tmp_path):
    (tmp_path / "my_reward.py").write_text("def grade(response, ground_truth):\n    return response == ground_truth\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    point = EntryPoint("grade", "my_reward:grade", "mimosa.verifiers")
    monkeypatch.setattr(registry, "entry_points", lambda group: [point] if group == "mimosa.verifiers" else [])
    registry.check("grade", {"memory_mb": 500})
    verifier = registry.create("grade", {}, timeout=20.0)
    assert isinstance(verifier, Function) and registry.label("grade") == "grade"
    assert verifier.score("7", Prompt("p", "", "", "7")).score == 1.0
    verifier.close()


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("mth", {}, "unknown verifier 'mth'; nearest known: 'math'"),
        ("length", {}, "unknown verifier 'length'"),
        ("math", {"lenent": True}, "unknown option 'lenent' of verifier 'math'; nearest known: 'lenient'"),
        ("math", {"timeout": 3}, "unknown option 'timeout' of verifier 'math'"),
        ("math", {"lenient": "yes"}, "option 'lenient' of verifier 'math' is 'yes', wanted a value of type bool"),
        ("math", {"answer_after": 4}, "option 'answer_after' of verifier 'math' is 4, wanted a value of type str"),
    ],
)
def test_a_mistake_is_named(name, options, words):
    for attempt in (lambda: registry.create(name, options, timeout=1.0), lambda: registry.check(name, options)):
        with pytest.raises(ValueError) as caught:
            attempt()
        assert words in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("timeout", [0.0, -1.0, float("nan")])
def test_a_timeout_must_be_positive(timeout):
    with pytest.raises(ValueError, match=r"verifier\.timeout"):
        registry.create("math", {}, timeout=timeout)


def test_a_file_without_a_function_is_told_what_is_missing(tmp_path):
    (tmp_path / "mine.py").write_text("def grade(response):\n    return 1.0\n")
    with pytest.raises(ValueError, match=r"mine.py' names no function in the file, wanted path/to/file.py:function"):
        registry.check(f"{tmp_path}/mine.py", {})
