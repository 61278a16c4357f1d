"""Rates of the verifiers beside what they stand in for: math-verify in the same process, and a plain `subprocess` a program.

Ours and the peer take turns, so that a busy machine costs both alike: the ratio is what to look at.
"""

from __future__ import annotations

import contextlib
import os
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from ..records import Prompt
from ..rewards.bubblewrap import find
from ..rewards.code_tests import CodeTests
from ..rewards.math_answer import MathAnswer
from ..rewards.process_tree import descendants
from ..rewards.sandbox import TIERS
from .record import Figure, append, figure, processor_name, show

AIMS = {"integers": 100_000, "mixed": 250, "code": 250}  # a second; integers and mixed on one core, code on two
REPETITIONS = 7
Row = tuple[str, str, bool]  # response, ground truth, whether it is right
Work = Callable[[], int]  # does some judgements and returns how many

PROGRAMS = (  # solution, assertions, whether they hold
    ("def f(a, b):\n    return a + b", "f(1, 2) == 3; f(-1, 1) == 0; f(10**20, 1) == 10**20 + 1", True),
    ("def f(s):\n    return s == s[::-1]", "f('abba') is True; f('abc') is False; f('') is True", True),
    ("def f(n):\n    a, b = 0, 1\n    for _ in range(n):\n        a, b = b, a + b\n    return a", "f(10) == 55; f(30) == 832040", True),
    ("from collections import Counter\ndef f(xs):\n    return Counter(xs).most_common(1)[0][0]", "f([1, 2, 2, 3]) == 2", True),
    ("def f(n):\n    return [p for p in range(2, n) if all(p % q for q in range(2, p))]", "f(9) == [2, 3, 5, 7]; f(2) == []", True),
    ("import re\ndef f(s):\n    return re.sub('[aeiou]', '', s)", "f('education') == 'dctn'; f('xyz') == 'xyz'", True),
    ("def f(m):\n    return [list(row) for row in zip(*m)]", "f([[1, 2], [3, 4]]) == [[1, 3], [2, 4]]; f([]) == []", True),
    ("def f(xs):\n    return sorted(xs)[-1]", "f([3, 1, 2]) == 3; f([0.5]) == 0.5; f([1, 2]) == 1", False),
)  # fmt: skip


@contextmanager
def on_processors(count: int) -> Iterator[int]:
    """Inside, this process and those it starts share `count` processors, or as many as there are; gives their number."""
    before = os.sched_getaffinity(0)
    chosen = sorted(before)[:count]
    os.sched_setaffinity(0, chosen)
    try:
        yield len(chosen)
    finally:
        os.sched_setaffinity(0, before)


@dataclass
class Rates:
    """Judgements a second of each repetition: by the clock, and by the processor time of this process and all below it."""

    wall: list[float] = field(default_factory=list)
    processor: list[float] = field(default_factory=list)

    def time(self, work: Work) -> None:
        start, used = time.perf_counter(), processor_seconds()
        count = work()
        self.wall.append(count / (time.perf_counter() - start))
        self.processor.append(count / max(processor_seconds() - used, 1e-3))


def processor_seconds() -> float:
    """Of this process, those below it that run, and those that these have waited for."""
    own = os.times()
    total = own.user + own.system + own.children_user + own.children_system
    for process in descendants(os.getpid()):
        with contextlib.suppress(OSError):  # gone meanwhile: its parent has its time
            words = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
            total += sum(map(int, words[11:15])) / os.sysconf("SC_CLK_TCK")
    return total


def integers(count: int, seed: int) -> list[Row]:
    """Whole numbers behind a few lines of reasoning, a third of them wrong."""
    draw, rows = random.Random(seed), []
    for _ in range(count):
        a, b = draw.randrange(10_000), draw.randrange(10_000)
        wrong = draw.random() < 1 / 3
        answer = a + b + wrong
        rows.append(
            (f"We add {a} and {b}: that gives {answer}.\nSo the answer is \\boxed{{{answer}}}.", str(a + b), not wrong)
        )
    return rows


def mixed(count: int, seed: int) -> list[Row]:
    """3 in 10 whole numbers, 3 other numbers, 2 expressions, 2 of sets, intervals, tuples; no two alike."""
    draw, rows = random.Random(seed), []
    for number in range(count):
        a, b, c = draw.sample(range(2, 1000), 3)
        wrong = draw.random() < 1 / 3
        forms = (
            (f"{a + wrong}", f"{a}"),
            (f"{a + wrong}", f"{a}"),
            (f"{a + wrong},{b:03d}", f"{a}{b:03d}"),
            (f"\\frac{{{a}}}{{{b}}}", f"\\frac{{{2 * a + wrong}}}{{{2 * b}}}"),
            (f"{a}.{b:03d}", f"\\frac{{{1000 * a + b + wrong}}}{{1000}}"),
            (f"{a + wrong}\\%", f"\\frac{{{a}}}{{100}}"),
            (f"{a}(x+{b})", f"{a}x+{a * b + wrong}"),
            (f"\\sqrt{{{a * a * b}}}", f"{a + wrong}\\sqrt{{{b}}}"),
            (f"\\{{{a}, {b}, {c + wrong}\\}}", f"\\{{{c}, {a}, {b}\\}}"),
            (f"[{a}, \\frac{{{b}}}{{2}})", f"[{a + wrong}, {b / 2})"),
        )
        answer, truth = forms[number % len(forms)]
        rows.append((f"After some algebra we find \\boxed{{{answer}}}.", truth, not wrong))
    return rows


def ours(rows: Sequence[Row], verifier: MathAnswer) -> Work:
    """The verifier on rows; that its verdicts are right is seen to."""
    prompts = [(response, Prompt("p", "", "math", truth)) for response, truth, _ in rows]
    wanted = sum(right for _, _, right in rows)

    def work() -> int:
        found = [verifier.score(response, prompt).score for response, prompt in prompts]
        assert found.count(1.0) == wanted, f"{found.count(1.0)} of {wanted} right answers"
        return len(prompts)

    return work


def math_verify(rows: Sequence[Row]) -> Work:
    """The library as its documentation calls it, in this process, with its own limits of 5 s a step."""
    from math_verify import parse, verify

    def work() -> int:
        for response, truth, _ in rows:
            verify(parse(f"\\boxed{{{truth}}}"), parse(response))
        return len(rows)

    return work


def bench_math() -> Iterator[Figure]:
    """Answers a second on one core: the verifier with its checker process, and the library."""
    sizes = {"integers": (20_000, 300), "mixed": (500, 150)}
    rows_of = {"integers": integers, "mixed": mixed}
    for kind, (many, few) in sizes.items():
        verifier = MathAnswer()
        own, theirs = Rates(), Rates()
        with on_processors(1):
            ours(mixed(10, 99), verifier)()  # the checker process starts
            math_verify(mixed(10, 99))()
            for seed in range(REPETITIONS):  # new numbers each time: caches of answers must not help
                own.time(ours(rows_of[kind](many, seed), verifier))
                theirs.time(math_verify(rows_of[kind](few, seed)))
        verifier.close()
        yield _figure("math-verify, in process", f"{kind}, one core", "answers/s", theirs)
        yield _figure("verifier math", f"{kind}, one core", "answers/s", own, theirs, "math-verify", AIMS[kind])


def bench_code() -> Iterator[Figure]:
    """Programs a second on two cores: a verifier a thread, and a bare Python a program."""
    jobs = [PROGRAMS[number % len(PROGRAMS)] for number in range(200)]
    with on_processors(2) as count:
        for tier in TIERS:
            if tier == "bubblewrap" and find() is None:
                print("bwrap is not installed: the tier bubblewrap is left out", flush=True)
                continue
            verifiers = [CodeTests(tier=tier) for _ in range(count)]
            for verifier in verifiers:
                verifier.start()
            own, theirs = Rates(), Rates()
            for _ in range(REPETITIONS):
                own.time(_shared(jobs, [_judged(verifier) for verifier in verifiers]))
                theirs.time(_shared(jobs, [_run_plainly] * count))
            for verifier in verifiers:
                verifier.close()
            setting = f"{count} cores, {len(PROGRAMS)} small functions"
            yield _figure("plain subprocess, no limits", setting, "programs/s", theirs)
            yield _figure(
                "verifier code", f"{setting}, tier {tier}", "programs/s", own, theirs, "plain subprocess", AIMS["code"]
            )


def _shared(jobs: Sequence[tuple[str, str, bool]], runners: Sequence[Callable[[str, str], bool]]) -> Work:
    """Every runner in a thread of its own with its share of the jobs; each outcome is checked."""

    def share(place: int) -> int:
        mine = jobs[place :: len(runners)]
        for solution, tests, holds in mine:
            assert runners[place](solution, tests) is holds
        return len(mine)

    def work() -> int:
        with ThreadPoolExecutor(len(runners)) as threads:
            return sum(threads.map(share, range(len(runners))))

    return work


def _judged(verifier: CodeTests) -> Callable[[str, str], bool]:
    def run(solution: str, tests: str) -> bool:
        check = "".join(f"    assert {one}\n" for one in tests.replace("f(", "candidate(").split("; "))
        row = {"kind": "assert", "entry_point": "f", "code": f"def check(candidate):\n{check}"}
        verdict = verifier.score(f"```python\n{solution}\n```", Prompt("p", "", "code", "", fields={"tests": row}))
        assert verdict.status == "scored", verdict.reason
        return verdict.score == 1.0

    return run


def _run_plainly(solution: str, tests: str) -> bool:
    """What many reward functions do, and a program can cheat: exit status 0 of program and tests in one process."""
    code = solution + "\n" + "".join(f"assert {one}\n" for one in tests.split("; "))
    done = subprocess.run([sys.executable, "-I", "-S", "-c", code], capture_output=True, timeout=10)
    return done.returncode == 0


def _figure(
    name: str, setting: str, unit: str, rates: Rates, peer: Rates | None = None, whom: str = "", aim: int = 0
) -> Figure:
    note = f"{statistics.median(rates.processor):,.0f} a processor second"
    if peer:
        note += f"; {statistics.median(rates.wall) / statistics.median(peer.wall):.2f}x {whom} of this run; aimed at {aim:,}"
    return figure(
        name, setting, unit, rates.wall, note=note, device=processor_name(), packages=("python", "math-verify")
    )


SECTIONS: dict[str, Callable[[], Iterator[Figure]]] = {"math": bench_math, "code": bench_code}


def run(sections: list[str], save: bool = True) -> list[Figure]:
    """Measure the sections (all of them when the list is empty), print each figure and append it to the results."""
    if unknown := set(sections) - SECTIONS.keys():
        raise ValueError(f"bench rewards: got {', '.join(sorted(unknown))}, wanted some of {', '.join(SECTIONS)}")
    found = []
    for name in sections or list(SECTIONS):
        for one in SECTIONS[name]():
            print(show(one), flush=True)
            found.append(one)
    if save:
        append(found)
    return found
