"""`mimosa generate` in its own process, broken off as it happens to people, and gone on with to the same bytes."""

import contextlib
import json
import os
import signal
import string
import subprocess
import sys
import time

import psutil
import pytest
import torch
from builders import tiny_config

from mimosa.__main__ import main
from mimosa.policy.mamba3 import Mamba3ForCausalLM
from mimosa.policy.tokenizer import chars_tokenizer

pytestmark = [pytest.mark.usefixtures("ray_cluster"), pytest.mark.timeout(300)]
PROMPTS, SAMPLES = 32, 2
SMALL = ["rollout.slots=2", "rollout.actors=1", "log.progress=false"]  # a unit of 4 prompts: 8 rows


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """A folder with a policy that seldom ends, prompts, and what an undisturbed call makes of them."""
    folder = tmp_path_factory.mktemp("generate")
    tokenizer = chars_tokenizer(string.digits + string.ascii_letters + string.punctuation)
    torch.manual_seed(0)
    model = Mamba3ForCausalLM(tiny_config(vocab_size=len(tokenizer), eos_token_id=1, d_model=32, headdim=16))
    model.save_pretrained(folder / "policy")
    tokenizer.save_pretrained(folder / "policy")
    rows = [{"id": f"q{i}", "prompt": f"{i}+{i * i}="} for i in range(PROMPTS)]
    (folder / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert main(arguments(folder, "whole.jsonl")) == 0
    return folder


def arguments(folder, out: str, *more: str) -> list[str]:
    return ["generate", str(folder / "in.jsonl"), "--policy", str(folder / "policy"), "--out", str(folder / out),
            "--samples", str(SAMPLES), "--max-tokens", "150", *SMALL, *more]  # fmt: skip


def lines(path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


def broken_off(folder, rows: int, how: signal.Signals, *more: str) -> int:
    """Start the command, send it a signal once so many rows are there, and see its processes gone; -> exit status."""
    command = [sys.executable, "-m", "mimosa", *arguments(folder, "out.jsonl", *more)]
    with (folder / "log").open("w") as log:
        running = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
        try:
            deadline = time.monotonic() + 150
            while lines(folder / "out.jsonl") < rows:
                assert time.monotonic() < deadline and running.poll() is None, (folder / "log").read_text()
                time.sleep(0.01)
            children = psutil.Process(running.pid).children(recursive=True)
            agents = [
                p for p in children if "Agent" in p.cmdline()[0]
            ]  # Ray's own: they look for a dead parent once in a while
            if how is signal.SIGINT:
                os.killpg(running.pid, how)  # as a terminal does: to the whole foreground group
            else:
                os.kill(running.pid, how)
            status = running.wait(60)
        finally:
            if running.poll() is None:
                os.killpg(running.pid, signal.SIGKILL)
    _, alive = psutil.wait_procs([p for p in children if p not in agents], timeout=30)
    assert not alive, [p.cmdline() for p in alive if p.is_running()]
    for agent in agents:
        with contextlib.suppress(psutil.NoSuchProcess):
            agent.kill()
    return status


def test_undisturbed_rows_are_in_order_and_a_second_call_has_nothing_to_do(work):
    rows = [json.loads(line) for line in (work / "whole.jsonl").read_text().splitlines()]
    assert [(r["id"], r["sample"]) for r in rows] == [(f"q{i}", s) for i in range(PROMPTS) for s in range(SAMPLES)]
    before = (work / "whole.jsonl").stat()
    assert main(arguments(work, "whole.jsonl")) == 0
    after = (work / "whole.jsonl").stat()
    assert (after.st_size, after.st_ino) == (before.st_size, before.st_ino)


def test_killed_with_9_then_stopped_by_ctrl_c_the_same_command_goes_on_to_the_same_bytes(work, capsys):
    out, whole = work / "out.jsonl", (work / "whole.jsonl").read_bytes()
    assert broken_off(work, 8, signal.SIGKILL, "rollout.actors=2") == -signal.SIGKILL
    left = out.read_bytes()
    assert whole.startswith(left) and len(left) < len(whole)
    out.write_bytes(left[:-30])  # a line torn inside a unit, as a full disk leaves it
    count = lines(out)

    assert broken_off(work, count + 2, signal.SIGINT) == 130
    log = (work / "log").read_text()
    assert f"going on after {count} of {PROMPTS * SAMPLES}" in log
    count = lines(out)
    assert f"stopped after {count} of {PROMPTS * SAMPLES} completions" in log and count < PROMPTS * SAMPLES
    assert whole.startswith(out.read_bytes())

    assert main(arguments(work, "out.jsonl")) == 0
    assert f"going on after {count} of" in capsys.readouterr().out
    assert out.read_bytes() == whole


@pytest.mark.parametrize(
    ("changed", "said"),
    [(["--seed", "1"], "another seed"), (["--max-tokens", "99"], "another max_tokens"),
     (["--samples", "3"], "another samples"), (["model.dtype=bf16"], "another policy")],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)  # fmt: skip
def test_another_call_is_refused_in_one_line(work, changed, said, capsys):
    before = (work / "whole.jsonl").read_bytes()
    assert main(arguments(work, "whole.jsonl", *changed)) == 2
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert said in line and "--overwrite" in line
    assert (work / "whole.jsonl").read_bytes() == before


def test_rows_of_another_file_are_refused_and_overwrite_begins_anew(work, tmp_path, capsys):
    for name in ("policy", "in.jsonl"):
        (tmp_path / name).symlink_to(work / name)
    out, whole = tmp_path / "out.jsonl", (work / "whole.jsonl").read_bytes()
    (tmp_path / "out.jsonl.state").write_bytes((work / "whole.jsonl.state").read_bytes())
    rows = whole.splitlines(keepends=True)
    out.write_bytes(rows[1] + rows[0] + rows[3])
    assert main(arguments(tmp_path, "out.jsonl")) == 2 and "wanted ('q1', 0)" in capsys.readouterr().err
    assert main(arguments(tmp_path, "out.jsonl", "--overwrite")) == 0
    assert out.read_bytes() == whole


def test_other_prompts_are_refused(work, tmp_path, capsys):
    text = (work / "in.jsonl").read_text()
    (tmp_path / "in.jsonl").write_text(text.replace("7+49=", "7+48="))
    for name in ("policy", "whole.jsonl", "whole.jsonl.state"):
        (tmp_path / name).symlink_to(work / name)
    assert main(arguments(tmp_path, "whole.jsonl")) == 2
    assert "another prompts began" in capsys.readouterr().err


def test_an_id_that_comes_twice_is_named(work, tmp_path, capsys):
    (tmp_path / "in.jsonl").write_text(
        '{"id": "a", "prompt": "1="}\n{"id": "b", "prompt": "1="}\n{"id": "a", "prompt": "2="}\n'
    )
    (tmp_path / "policy").symlink_to(work / "policy")
    assert main(arguments(tmp_path, "out.jsonl")) == 2
    assert "line 3: id: got 'a' again" in capsys.readouterr().err
    assert not (tmp_path / "out.jsonl").exists()
