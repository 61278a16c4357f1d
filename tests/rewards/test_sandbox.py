"""The choice of a sandbox: one that leaks is found out."""

import os
import platform
import struct

import pytest

from mimosa.rewards import judge_process, seccomp
from mimosa.rewards.bubblewrap import find
from mimosa.rewards.limits import Limits
from mimosa.rewards.sandbox import TIERS, SandboxFailed, Slot, fault_of
from mimosa.rewards.self_test import breaches

WEAK = "import mimosa.rewards.zygote as zygote; zygote.confine = lambda made, limits, parent: {}; main()"


class Weak(Slot):
    """A slot whose candidates do in place of the confinement what `instead` says."""

    instead = "None"

    def _command(self, control):
        return [word.replace("main()", WEAK.format(self.instead)) for word in super()._command(control)]


def slot(tier, kind=Slot):
    if tier == "bubblewrap" and find() is None:
        pytest.skip("bwrap is not installed")
    made = kind(tier, os.getpid())
    try:
        made.ensure()
    except SandboxFailed as failed:
        pytest.skip(f"no sandbox of tier {tier} here: {failed}")
    return made


@pytest.mark.parametrize("tier", TIERS)
def test_a_sound_sandbox_holds(tier):
    made = slot(tier)
    try:
        assert breaches(made) == []
    finally:
        made.close()


def test_a_sandbox_without_walls_is_found_out():
    class NoWalls(Weak):
        instead = "__import__('mimosa.rewards.limits').rewards.limits.apply(limits)"

    made = slot("landlock", NoWalls)
    try:
        won = set(breaches(made))
    finally:
        made.close()
    assert {
        "read_host_file",
        "list_host",
        "fork",
        "vfork_exec",
        "execute",
        "internet_socket",
        "unix_socket",
        "signal_parent",
    } <= won
    assert "much_memory" not in won and "many_files" not in won  # the limits alone were kept


def test_a_sandbox_without_limits_is_found_out():
    made = slot("landlock", Weak)
    try:
        assert "many_files" in breaches(made)
    finally:
        made.close()


def test_confinement_that_fails_runs_no_code():
    class Failing(Weak):
        instead = "__import__('os').chdir('/no-such-folder')"

    made = slot("landlock", Failing)
    try:
        with pytest.raises(SandboxFailed, match="could not be confined: FileNotFoundError"):
            made.session(Limits())
    finally:
        made.close()


def test_every_refused_tier_is_named(monkeypatch):
    monkeypatch.setattr(judge_process, "Slot", Weak)
    monkeypatch.setattr("mimosa.rewards.bubblewrap.find", lambda: None)
    chosen, said = judge_process.choose("auto")
    assert chosen is None
    assert "bwrap is not installed" in said["refused"][0]
    assert said["refused"][1].startswith("landlock: ")


def test_an_exit_status_in_words():
    assert fault_of(3) == "ended its process (exit code 3)"
    assert fault_of(-11) == "died of SIGSEGV"
    assert "processor time" in fault_of(-24)


@pytest.mark.parametrize(("machine", "architecture"), [("x86_64", 0xC000003E), ("aarch64", 0xC00000B7)])
def test_every_jump_of_the_filter_lands_inside(monkeypatch, machine, architecture):
    monkeypatch.setattr(platform, "machine", lambda: machine)
    code = [struct.unpack("=HBBI", seccomp.program()[at : at + 8]) for at in range(0, len(seccomp.program()), 8)]
    assert code[1] == (0x15, 1, 0, architecture)
    for place, (operation, yes, no, _) in enumerate(code):
        if operation & 7 == 5:
            assert place + 1 + max(yes, no) < len(code)
    assert run(code, 59 if machine == "x86_64" else 221) == run(code, 9999) == 0x50026  # execve
    assert run(code, 1 if machine == "x86_64" else 64, 1) == 0x7FFF0000  # write
    clone = 56 if machine == "x86_64" else 220
    assert run(code, clone, 0x3D0F00) == 0x7FFF0000 and run(code, clone, 17) == 0x50026
    assert run(code, clone, 0x3D0F00 | 0x10000000) == 0x50026  # a namespace
    sendto = 44 if machine == "x86_64" else 206
    assert run(code, sendto, 3, 0, 0, 0, 0) == 0x7FFF0000
    assert run(code, sendto, 3, 0, 0, 0, 1) == run(code, sendto, 3, 0, 0, 0, 1 << 32) == 0x50026
    fcntl = 72 if machine == "x86_64" else 25
    assert run(code, fcntl, 3, 2) == 0x7FFF0000 and run(code, fcntl, 3, 8) == 0x50026  # F_SETFD, F_SETOWN


def run(code, number, *arguments):
    """The filter's answer to a system call."""
    data = struct.pack("=iIQ6Q", number, code[1][3], 0, *arguments, *[0] * (6 - len(arguments)))
    held, place = 0, 0
    while True:
        operation, yes, no, constant = code[place]
        place += 1
        if operation == 0x20:
            held = struct.unpack_from("=I", data, constant)[0]
        elif operation == 0x54:
            held &= constant
        elif operation == 0x15:
            place += yes if held == constant else no
        else:
            assert operation == 0x06
            return constant


def test_other_machines_are_refused(monkeypatch):
    monkeypatch.setattr(platform, "machine", lambda: "riscv64")
    with pytest.raises(OSError, match="no system call table for riscv64"):
        seccomp.program()
