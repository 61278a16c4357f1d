"""Ctrl-C on a run in its own process, as a person starts it, and resume."""

import json
import os
import signal
import subprocess
import sys
import time

import psutil
import pytest
from runs import TINY, rollouts, rows
from transformers import AutoModelForCausalLM

from mimosa.__main__ import main

pytestmark = pytest.mark.timeout(240)


def test_ctrl_c_leaves_a_checkpoint_and_no_process_and_the_run_goes_on(ray_cluster, tmp_path):
    folder = tmp_path / "run"
    settings = [
        *TINY,
        f"run.dir={folder}",
        "checkpoint.every=0",
        "train.steps=400",
        "rollout.actors=1",
        "verifier.actors=1",
    ]
    command = [sys.executable, "-m", "mimosa", "train", "smoke", *settings]
    with (tmp_path / "log").open("w") as log:
        running = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
        try:
            deadline = time.monotonic() + 120
            while len(rows(folder)) < 3:
                assert time.monotonic() < deadline and running.poll() is None, (tmp_path / "log").read_text()
                time.sleep(0.1)
            family = psutil.Process(running.pid).children(recursive=True)
            os.killpg(running.pid, signal.SIGINT)  # as a terminal does: to the whole foreground group
            assert running.wait(90) == 130
        finally:
            if running.poll() is None:
                os.killpg(running.pid, signal.SIGKILL)
    _, alive = psutil.wait_procs(family, timeout=15)
    assert not alive, [p.cmdline() for p in alive if p.is_running()]
    stopped_at = len(rows(folder))
    (checkpoint,) = (folder / "checkpoints").iterdir()
    assert checkpoint.name == f"step_{stopped_at:06d}"
    assert "go on with" in (tmp_path / "log").read_text().splitlines()[-1]

    assert AutoModelForCausalLM.from_pretrained(folder / "policy").config.n_layer == 1

    steps = stopped_at + 2
    assert main(["train", f"{folder}/config.yaml", "resume=true", f"train.steps={steps}"]) == 0
    assert [row["step"] for row in rows(folder)] == list(range(1, steps + 1))
    uids = [row["uid"] for step in rollouts(folder).values() for row in step if row["sample"] == 0]
    assert len(set(uids)) == len(uids) == 6 * steps  # no prompt drawn twice over the stop
    assert json.loads((folder / "summary.json").read_text())["steps/rl"] == steps
