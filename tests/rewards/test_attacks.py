"""Programs that want a score or to do harm, in every sandbox that this machine has: all end at zero, in time, without a trace."""

import os
import re
import socket
import threading
import time
from pathlib import Path

import pytest
from programs import prompt

from mimosa.rewards.bubblewrap import find
from mimosa.rewards.code_tests import CodeTests
from mimosa.rewards.judge_link import JudgeLost, JudgeRefused
from mimosa.rewards.sandbox import TIERS

LIMIT = 0.5
SORTING = """
def check(candidate):
    expected = [1, 2, 3]
    first = [3, 1, 2]
    assert candidate(first) == expected
    second = [5, 4]
    result = candidate(second)
    assert result == sorted(second) and len(result) == 2
    assert all(map(lambda x: candidate([x]) == [x], [7, 8]))
    assert abs(sum(candidate([0.5, 0.25])) - 0.75) < 1e-9
"""
SORT = prompt({"kind": "assert", "entry_point": "solve", "code": SORTING})
DOUBLE = prompt({"kind": "stdin", "cases": [{"input": "3\n", "output": "6\n"}, {"input": "4\n", "output": "8\n"}]})


def attacks():
    text = (Path(__file__).parent / "attacks.txt").read_text()
    text = text.replace("␀", "\0").replace("␂", "\ud800").replace("␃", "(" * 50000 + ")" * 50000)
    parts = re.split(r"^### (.+)\n", text, flags=re.MULTILINE)[1:]
    return list(zip(parts[::2], parts[1::2], strict=True))


class Host:
    """What the attacks go for, and whether they got it."""

    def __init__(self, folder):
        self.folder = folder
        folder.chmod(0o777)
        self.canary = folder / "canary"
        self.canary.write_text("unharmed [1, 2, 3]")
        self.canary.chmod(0o666)
        self.reached = []
        self.sockets = [socket.create_server(("127.0.0.1", 0)), socket.socket(socket.AF_INET, socket.SOCK_DGRAM)]
        self.port = self.sockets[0].getsockname()[1]
        self.sockets[1].bind(("127.0.0.1", self.port))
        self.unix, self.abstract = str(folder / "unix"), f"mimosa-attacks-{os.getpid()}-{folder.name}"
        for kind, address in ((socket.SOCK_DGRAM, self.unix), (socket.SOCK_STREAM, f"\0{self.abstract}")):
            self.sockets.append(socket.socket(socket.AF_UNIX, kind))
            self.sockets[-1].bind(address)
        os.chmod(self.unix, 0o777)
        self.sockets[-1].listen()
        for one in self.sockets:
            threading.Thread(target=self._watch, args=(one,), daemon=True).start()
        self.before = self._written()

    def _watch(self, one):
        try:
            if one.type == socket.SOCK_DGRAM:
                one.recv(10)
            else:
                one.accept()
            self.reached.append(one.getsockname())
        except OSError:
            return

    def fill(self, code, judge):
        values = {"judge": judge, "canary": self.canary, "folder": self.folder, "port": self.port, "unix": self.unix}
        values["abstract"] = self.abstract
        for name, value in values.items():
            code = code.replace("{" + name + "}", str(value))
        return code.replace("{{}}", "{}")

    def harm(self):
        """What an attack did, in words; empty when it did nothing."""
        if self.canary.read_text() != "unharmed [1, 2, 3]" or self.canary.stat().st_mode & 0o777 != 0o666:
            return "the canary is harmed"
        if self.reached:
            return f"sockets were reached: {self.reached}"
        written = self._written() - self.before
        return f"files were written: {written}" if written else ""

    def _written(self):
        places = (self.folder, Path("/tmp"), Path("/var/tmp"), Path("/dev/shm"), Path("/"))
        names = {str(path) for place in places for path in place.glob("*")}
        return {name for name in names if "mimosa-attack" in name or name.startswith(str(self.folder))}

    def close(self):
        for one in self.sockets:
            one.close()


def parents():
    """Parent and state of every process."""
    found = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                words = Path(f"/proc/{entry}/stat").read_text().rpartition(")")[2].split()
            except (FileNotFoundError, ProcessLookupError):
                continue
            found[int(entry)] = (int(words[1]), words[0])
    return found


def descendants(root):
    tree = parents()
    found, new = set(), {root}
    while new:
        new = {pid for pid, (parent, state) in tree.items() if parent in new and state != "Z"} - found
        found |= new
    return found


@pytest.fixture(params=TIERS)
def verifier(request):
    if request.param == "bubblewrap" and find() is None:
        pytest.skip("bwrap is not installed")
    verifier = CodeTests(timeout=LIMIT, tier=request.param)
    try:
        verifier.start()
    except (JudgeRefused, JudgeLost) as refused:
        pytest.skip(f"no sandbox of tier {request.param} here: {refused}")
    yield verifier
    verifier.close()


def test_no_attack_scores_or_harms(verifier, tmp_path):
    host, all_attacks = Host(tmp_path), attacks()
    judge = verifier._link._process.pid
    resting = descendants(judge)
    wrong, slowest = [], ("", 0.0)
    for name, code in all_attacks:
        judge = verifier._link._process.pid
        row, code = DOUBLE if name.startswith("program:") else SORT, host.fill(code, judge)
        start = time.monotonic()
        verdict = verifier.score(code, row)
        seconds = time.monotonic() - start
        slowest = max(slowest, (name, seconds), key=lambda pair: pair[1])
        if (verdict.status, verdict.score) != ("scored", 0.0) or seconds > LIMIT + 1.5 or host.harm():
            wrong.append((name, verdict, round(seconds, 2), host.harm()))
        if verifier._link._process is None:  # killed for hanging on a value: only the judge's own parent does that
            assert "time limit" in verdict.reason, name
            verifier.start()
            resting = descendants(verifier._link._process.pid)
        if descendants(verifier._link._process.pid) - resting:
            wrong.append((name, "left a process behind"))
    assert len(all_attacks) >= 150
    assert not wrong, wrong
    honest = verifier.score("def solve(x): return sorted(x)", SORT)
    assert (honest.status, honest.score) == ("scored", 1.0), honest
    assert verifier.score("print(2 * int(input()))", DOUBLE).score == 1.0
    assert verifier._link.started <= 3  # the judge itself survived, but for the few that only its parent can end
    host.close()
