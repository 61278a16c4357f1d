"""A foreign function's process: limits and whose fault they were, deaths, children, prints, and what cannot be loaded."""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from mimosa.records import Prompt
from mimosa.rewards import registry
from mimosa.rewards.verifier import Answer, BatchVerifier

FILE = Path(__file__).parent / "foreign.py"
ROW = Prompt("row 7", "q", "", "42")


@pytest.fixture
def made():
    verifiers = []

    def make(name, timeout=20.0, file=FILE, **options):
        verifiers.append(registry.create(f"{file}:{name}", options, timeout))
        return verifiers[-1]

    yield make
    for verifier in verifiers:
        verifier.close()


def pid(verifier):
    return verifier._link._process.pid


def gone(process, seconds=20.0):
    """Whether it ends within some seconds; a zombie has ended."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            if psutil.Process(process).status() == psutil.STATUS_ZOMBIE:
                return True
        except psutil.NoSuchProcess:
            return True
        time.sleep(0.05)
    return False


@pytest.mark.parametrize(
    ("says", "words"),
    [
        ("nan", "returned the score nan, wanted a finite number"),
        ("infinite", "returned the score inf, wanted a finite number"),
        ("text", "returned str '1.0', wanted a number"),
        ("two", "returned the score 2, wanted one from 0 to 1; the options low and high name another scale"),
        ("list", "returned list [1.0, 1.0], wanted a number"),
        ("object", "returned object <object object"),
        ("no score", "returned a mapping without 'score'; it has acc"),
        ("huge", "returned a score beyond every float"),
        ("exit", "raised SystemExit: 0 (line "),
        ("interrupt", "raised KeyboardInterrupt"),
        ("deep", "raised RecursionError"),
    ],
)
def test_what_is_no_score_is_the_functions_failure(says, words, odd):
    verdict = odd.score(says, ROW)
    assert (verdict.status, verdict.score) == ("verifier_failed", None)
    assert verdict.reason.startswith(f"foreign.py:odd on row 'row 7': {words}")
    assert odd.score("42", ROW).score == 1.0
    assert odd._link.started == 1


@pytest.fixture(scope="module")
def odd():
    verifier = registry.create(f"{FILE}:odd", {}, 20.0)
    yield verifier
    verifier.close()


def test_scores_components_and_what_is_not_applicable(odd):
    half, nothing = odd.score("half", ROW), odd.score("none", ROW)
    assert (half.score, half.components, half.reason) == (0.5, {"acc": 1.0}, "pred: 42")
    assert (nothing.status, nothing.score) == ("skipped", None)
    assert isinstance(odd, BatchVerifier) and odd.grouped is False


def test_another_scale_is_mapped(made):
    verifier = made("minus_one_to_one", low=-1.0)
    assert [verifier.score(text, ROW).score for text in ("42", "41")] == [1.0, 0.0]
    assert made("minus_one_to_one", low=-3, high=1.0).score("41", ROW).score == 0.5


@pytest.mark.parametrize("says", ["sleep", "fork and hang"])
def test_a_time_limit_that_the_answer_runs_into_scores_0_and_nothing_is_left(says, made, tmp_path):
    copy = shutil.copy(FILE, tmp_path)  # a name that no other process has
    verifier = made("odd", timeout=1.0, file=copy)
    verifier.start()
    process = pid(verifier)
    watched = psutil.Process(process)
    start = time.perf_counter()
    verdict = verifier.score(says, ROW)
    assert time.perf_counter() - start < 15.0
    assert (verdict.status, verdict.score) == ("scored", 0.0)
    assert verdict.reason == "foreign.py:odd: the answer ran into the time limit of 1 s"
    assert gone(process) and not watched.is_running()
    everywhere = psutil.process_iter(["cmdline"])
    ours = {one.pid for one in everywhere if str(copy) in " ".join(one.info["cmdline"] or [])}
    assert ours == {pid(verifier), *(one.pid for one in psutil.Process(pid(verifier)).children())}
    assert verifier.score("42", ROW).score == 1.0


def test_a_limit_that_the_ground_truth_runs_into_too_is_the_functions_failure(made):
    verdict = made("hangs", timeout=0.5).score("a", Prompt("row 8", "q", "", "42"))
    assert (verdict.status, verdict.score) == ("verifier_failed", None)
    assert "row 'row 8': ran into the time limit of 0.5 s, as it does with the ground truth" in verdict.reason


def test_too_many_processes_are_a_limit_and_ended_before_time(made):
    verifier = made("odd", timeout=60.0, processes=40)
    start = time.perf_counter()
    verdict = verifier.score("fork and fork", ROW)
    assert (verdict.score, verdict.reason) == (0.0, "foreign.py:odd: the answer ran into the limit of 40 processes")
    assert time.perf_counter() - start < 40.0
    assert len(psutil.Process(pid(verifier)).children()) == 1  # ours, which watches
    assert verifier.score("42", ROW).score == 1.0


def test_a_memory_limit_goes_by_the_same_rule(made):
    verifier = made("odd", memory_mb=500)
    verdict = verifier.score("allocate", ROW)
    assert (verdict.score, verdict.reason) == (0.0, "foreign.py:odd: the answer ran into the memory limit of 500 MiB")
    assert verifier.score("allocate", Prompt("row 9", "q", "", "")).score == 0.0
    failed = made("leaking", memory_mb=200)
    assert [failed.score("a", ROW).score for _ in range(7)] == [
        0.5
    ] * 7  # a fresh process where what was kept filled it
    assert failed._link.started > 1


def test_a_fork_that_returns_too_is_not_heard(made):
    verifier = made("odd")
    assert verifier.score("fork and return", ROW).score == 0.0
    assert [verifier.score(text, ROW).score for text in ("42", "none", "42")] == [1.0, None, 1.0]
    assert verifier._link.started == 1


def test_ended_orphans_do_not_pile_up(made):
    verifier = made("odd")
    for _ in range(300):
        verifier.score("fork and return", ROW)
    ended = [one for one in psutil.Process(pid(verifier)).children() if one.status() == psutil.STATUS_ZOMBIE]
    assert len(ended) < 100
    assert verifier._link.started == 1


def test_a_death_between_calls_goes_unnoticed_and_one_within_is_no_verdict(made):
    verifier = made("odd")
    verifier.start()
    os.kill(pid(verifier), 9)
    assert gone(pid(verifier))
    assert verifier.score("42", ROW).score == 1.0
    (verdict,) = made("dies").score_all([Answer(ROW, "a")])
    assert verdict.status == "verifier_failed"
    assert "row 'row 7': the process of foreign.py:dies died (exit code 3) last words" in verdict.reason


def test_after_many_calls_without_an_answer_few_are_tried(made):
    verifier = made("dies")
    verdicts = verifier.score_all([Answer(Prompt(str(n), "q", "", "42"), "a") for n in range(9)])
    assert {verdict.status for verdict in verdicts} == {"verifier_failed"}
    assert sum("not asked, since the last 4 calls got no answer" in verdict.reason for verdict in verdicts) == 5
    assert verifier._link.started == 4
    verifier.score_all([Answer(ROW, "a")] * 3)
    assert verifier._link.started == 5


def test_coroutines_run_side_by_side_and_the_late_one_alone_is_late(made):
    verifier = made("slow", timeout=5.0, concurrency=8)
    verifier.start()
    start = time.perf_counter()
    verdicts = verifier.score_all([Answer(ROW, text) for text in [*"abcdefg"]])
    assert [verdict.score for verdict in verdicts] == [1.0] * 7
    assert time.perf_counter() - start < 7 * 0.4
    verdicts = made("slow", timeout=1.0).score_all([Answer(ROW, text) for text in ("a", "late", "b")])
    assert [verdict.score for verdict in verdicts] == [1.0, 0.0, 1.0]


def test_a_coroutine_that_blocks_the_others_is_found_out(made):
    verdicts = made("blocking", timeout=1.0).score_all([Answer(ROW, text) for text in ("a", "late", "b")])
    assert [verdict.score for verdict in verdicts] == [1.0, 0.0, 1.0]


def test_neither_surrogates_nor_large_texts_nor_bytes_are_lost(made):
    row = Prompt("r", "q", "", "\ud800" * 3, fields={"image": b"\x00\xff", "level": (1, "\udfff")})
    assert made("plain").score("\ud800" * 3, row).score == 1.0
    assert made("plain").score("x" * 5_000_000, row).score == 0.0
    assert made("wants_column").score("", row).status == "scored"


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        (f"{FILE}:nothing", "there is no 'nothing' in it; it has told, verl,"),
        (f"{FILE}:NO_FUNCTION", "it is no function: int"),
        (f"{FILE}:unknown", "its parameters (alpha, beta) are those of no known interface: verl,"),
        (f"{FILE.parent}/nowhere.py:f", "no such file"),
        (f"{FILE.parent}/programs.txt:f", "unknown verifier"),
        ("mimosa.nowhere:f", "loading it raised ModuleNotFoundError: No module named 'mimosa.nowhere'"),
        ("os.path:nothing", "there is no 'nothing' in it"),
        (str(FILE), "names no function in the file"),
    ],
)
def test_what_cannot_be_loaded_is_said_before_anything_starts(spec, words):
    with pytest.raises(ValueError) as caught:
        registry.check(spec, {})
    assert words in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"lo": -1}, "unknown option 'lo' of verifier 'foreign.py:plain'; nearest known: 'low'"),
        ({"low": "a"}, "option 'low' of verifier 'foreign.py:plain' is 'a', wanted a value of type float"),
        ({"low": 1}, "options low and high are 1 and 1.0"),
        ({"interface": "ver"}, "option 'interface' of verifier 'foreign.py:plain' is 'ver', wanted auto or verl,"),
        ({"arguments": "a=1"}, "option 'arguments' of verifier 'foreign.py:plain' is 'a=1', wanted a mapping"),
        ({"arguments": {1: 2}}, "option 'arguments' of verifier 'foreign.py:plain' is {1: 2}, wanted a mapping"),
        ({"memory_mb": 1}, "option 'memory_mb' of verifier 'foreign.py:plain' is 1, wanted 64 or more"),
        ({"memory_mb": 1.5}, "option 'memory_mb' of verifier 'foreign.py:plain' is 1.5, wanted a value of type int"),
    ],
)
def test_a_wrong_option_is_named(options, words):
    with pytest.raises(ValueError) as caught:
        registry.check(f"{FILE}:plain", options)
    assert words in str(caught.value)


def test_an_argument_that_the_function_does_not_take_is_named():
    with pytest.raises(
        ValueError, match=r"'foreign.py:plain': it takes no argument 'weigth'; it has response, ground_truth"
    ):
        registry.check(f"{FILE}:plain", {"arguments": {"weigth": 2}})
    with pytest.raises(ValueError, match=r"loading it raised TypeError: .*'tol'"):
        registry.check(f"{FILE}:Torchforge", {"arguments": {"tol": 2}})


def test_arguments_are_not_to_be_read_in_the_list_of_processes(made):
    verifier = made("plain_group", arguments={"weight": 0.125})
    verifier.start()
    assert psutil.Process(pid(verifier)).cmdline()[-1] == f"{FILE}:plain_group"
    assert verifier.score("42", ROW).score == 0.125


def test_dotted_names_and_relative_paths(made, monkeypatch, tmp_path):
    (tmp_path / "my_package").mkdir()
    (tmp_path / "my_package" / "rewards.py").write_text(
        "from my_helper import right\n\ndef f(response):\n    return right(response)\n"
    )
    (tmp_path / "my_helper.py").write_text("def right(response):\n    return response == 'yes'\n")
    monkeypatch.chdir(tmp_path)
    for spec in ("my_package.rewards:f", "my_package.rewards.f"):
        assert registry.absolute(spec, {}) == ("my_package.rewards:f", {})
        verifier = registry.create(spec, {}, 20.0)
        assert verifier.score("yes", ROW).score == 1.0
        verifier.close()
    spec, options = registry.absolute(
        "rubric", {"parts": [{"verifier": "a/b.py:f", "weight": 2}, {"verifier": "math"}]}
    )
    assert (spec, options["parts"][0]["verifier"]) == ("rubric", f"{tmp_path}/a/b.py:f")


@pytest.mark.parametrize("says", ["42", "sleep", "c code"])
def test_it_does_not_outlive_a_killed_parent(says):
    script = (
        "import time; from mimosa.rewards import registry; from mimosa.records import Prompt\n"
        f"verifier = registry.create({f'{FILE}:odd'!r}, {{}}, 60.0); verifier.start()\n"
        "print(verifier._link._process.pid, flush=True)\n"
        f"verifier.score({says!r}, Prompt('r', 'q', '', '42')); time.sleep(60)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE)
    child = int(parent.stdout.readline())
    below = [child, *(one.pid for one in psutil.Process(child).children(recursive=True))]
    time.sleep(0.3)
    parent.kill()
    parent.wait(timeout=10)
    parent.stdout.close()
    assert all(map(gone, below))
