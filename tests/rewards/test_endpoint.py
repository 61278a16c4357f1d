"""Verifiers behind an address, against a real server: forms, retries, limits, and what is no answer."""

import socket
import threading
import time

import pytest
from serving import serving

from mimosa.records import Message, Prompt
from mimosa.rewards import registry
from mimosa.rewards.http_post import NoAnswer, post
from mimosa.rewards.verifier import Answer

ROW = Prompt("row 7", "6*7=", "", "42", fields={"level": 3, "image": b"\x00"})


def verdict(address, response="42", timeout=20.0, prompt=ROW, **options):
    return registry.create(address, options, timeout).score(response, prompt)


def test_our_own_form():
    asked = []

    def reply(body, handler):
        asked.append((body, handler.headers["X-Lab"], handler.path))
        return {"score": body["response"] == body["ground_truth"], "reason": "compared", "length": 2}

    with serving(reply) as address:
        right = verdict(f"{address}/grade?v=1", headers={"X-Lab": "a"})
        wrong = verdict(address, "41", prompt=Prompt("c", (Message("user", "6*7="),), "", "42"))
    assert (right.status, right.score, right.reason, right.components) == ("scored", 1.0, "compared", {"length": 2.0})
    assert (wrong.status, wrong.score) == ("scored", 0.0)
    (first, header, path), (second, _, _) = asked
    assert (header, path) == ("a", "/grade?v=1")
    assert first == {
        "id": "row 7", "prompt": "6*7=", "response": "42", "ground_truth": "42", "truncated": False,
        "fields": {"level": 3, "image": "b'\\x00'"},
    }  # fmt: skip
    assert second["prompt"] == [{"role": "user", "content": "6*7="}]


def test_openrlhfs_form_asks_for_a_group_at_once():
    asked = []

    def reply(body, handler):
        asked.append(body)
        return {
            "rewards": [1.0 if q == "6*7=42" else -1.0 for q in body["query"]],
            "scores": [0.5] * len(body["query"]),
        }

    with serving(reply) as address:
        verifier = registry.create(address, {"form": "openrlhf", "low": -1.0}, 20.0)
        answers = [Answer(ROW, text, group=group) for group in "ab" for text in ("42", "41")]
        verdicts = verifier.score_all([answers[i] for i in (0, 2, 1, 3)])
    assert verifier.grouped is True
    assert [one.score for one in verdicts] == [1.0, 1.0, 0.0, 0.0]
    assert verdicts[0].components == {"scores": 0.5}
    assert asked == [{"query": ["6*7=42", "6*7=41"], "prompts": ["6*7="] * 2, "labels": ["42"] * 2}] * 2


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"score": "1"}, "returned str '1', wanted a number"),
        ({"score": float("nan")}, "returned the score nan"),
        ({"score": 3}, "returned the score 3, wanted one from 0 to 1"),
        ({"reward": 1}, "returned a mapping without 'score'; it has reward"),
        ({"error": "no GPU left"}, "it says: no GPU left"),
        ("fine", "returned str 'fine'"),
    ],
)
def test_what_is_no_score_is_the_endpoints_failure(given, words):
    with serving(lambda body, handler: given) as address:
        found = verdict(address)
    assert (found.status, found.score) == ("verifier_failed", None)
    assert found.reason.startswith(address.removeprefix("http://") + " on row 'row 7': ") and words in found.reason


def test_null_is_not_applicable_and_too_few_are_no_answer():
    with serving(lambda body, handler: {"score": None}) as address:
        assert verdict(address).status == "skipped"
    with serving(lambda body, handler: {"rewards": [1.0]}) as address:
        verifier = registry.create(address, {"form": "openrlhf"}, 20.0)
        verdicts = verifier.score_all([Answer(ROW, "42", group="a")] * 3)
    assert {one.status for one in verdicts} == {"verifier_failed"} and "returned 1 scores for 3 answers" in verdicts[
        0
    ].reason


def test_a_busy_server_is_asked_again_with_pauses():
    times = []

    def reply(body, handler):
        times.append(time.monotonic())
        if len(times) == 1:
            return handler.answer(503, b"busy")
        if len(times) == 2:
            return handler.answer(429, b"slowly", Retry_After="1")
        return {"score": 1.0}

    with serving(reply) as address:
        assert verdict(address).score == 1.0
    assert len(times) == 3 and times[1] - times[0] > 0.04 and times[2] - times[1] > 0.9


@pytest.mark.parametrize(
    ("status", "content", "attempts", "words"),
    [
        (500, b"broken", 2, "no answer after 2 attempts: status 500: broken"),
        (400, b"bad row", 1, "no answer after 1 attempts: status 400: bad row"),
        (302, b"", 1, "no answer after 1 attempts: status 302"),
        (200, b"<html>", 1, "the answer is no JSON: b'<html>'"),
    ],
)
def test_other_answers_are_none(status, content, attempts, words):
    count = []

    def reply(body, handler):
        count.append(1)
        handler.answer(status, content)

    with serving(reply) as address:
        found = verdict(address, attempts=2)
    assert (found.status, len(count)) == ("verifier_failed", attempts) and words in found.reason


def test_nobody_there():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        found = verdict(f"http://127.0.0.1:{taken.getsockname()[1]}")
    assert found.status == "verifier_failed" and "no answer after 3 attempts: [Errno 111]" in found.reason


@pytest.mark.parametrize("way", ["silent", "dripping body", "dripping head"])
def test_the_time_limit_holds_for_the_whole_question(way):
    over = threading.Event()

    def reply(body, handler):
        if way == "dripping body":
            handler.send_response(200)
            handler.send_header("Content-Length", "1000")
            handler.end_headers()
        try:
            while not over.wait(0.05):
                if way != "silent":
                    handler.wfile.write(b"H")
        except OSError:
            return

    with serving(reply) as address:
        start = time.monotonic()
        found = verdict(address, timeout=0.6)
        took = time.monotonic() - start
        over.set()
    assert found.status == "verifier_failed" and "no answer within 0.6 s" in found.reason
    assert 0.5 < took < 5.0


def test_questions_run_side_by_side():
    together = threading.Barrier(8)

    def reply(body, handler):
        together.wait(20)
        return {"score": int(body["response"]) / 8}

    with serving(reply) as address:
        verdicts = registry.create(address, {"concurrency": 8}, 30.0).score_all([Answer(ROW, str(n)) for n in range(8)])
    assert [one.score for one in verdicts] == [n / 8 for n in range(8)]


def test_a_token_comes_from_the_environment(monkeypatch):
    monkeypatch.setenv("LAB_TOKEN", "secret")
    with serving(lambda body, handler: {"score": handler.headers["Authorization"] == "Bearer secret"}) as address:
        assert verdict(address, token_env="LAB_TOKEN").score == 1.0
    with pytest.raises(ValueError, match="'LAB_TOKEN_2', which the environment lacks"):
        registry.check("http://127.0.0.1:1/", {"token_env": "LAB_TOKEN_2"})


@pytest.mark.parametrize(
    ("address", "options", "words"),
    [
        ("http://", {}, "no host in it"),
        ("http://host:port/", {}, "no host in it"),
        (
            "http://host/grade",
            {"form": "trl"},
            "option 'form' of verifier 'host/grade' is 'trl', wanted mimosa or openrlhf",
        ),
        ("http://host", {"attempts": 0}, "option 'attempts' of verifier 'host' is 0, wanted 1 or more"),
        (
            "http://user:pass@host/a?key=1",
            {"formm": 1},
            "unknown option 'formm' of verifier 'host/a'; nearest known: 'form'",
        ),
        ("http://host/run_code", {"form": "mimosa"}, "unknown option 'form' of verifier 'host/run_code'"),
    ],
)
def test_a_mistake_is_named(address, options, words):
    with pytest.raises(ValueError) as caught:
        registry.check(address, options)
    assert words in str(caught.value) and "pass" not in str(caught.value)


def test_an_answer_has_a_largest_size(monkeypatch):
    monkeypatch.setattr("mimosa.rewards.http_post.MOST", 1000)
    with serving(lambda body, handler: "x" * 2000) as address, pytest.raises(NoAnswer, match="more than 1000 bytes"):
        post(address, {}, {}, 10.0, 1)
