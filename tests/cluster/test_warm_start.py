"""Supervised runs: what they leave, and that neither Ctrl-C nor a dead learner changes what is learned."""

import json
import os
import signal

import pytest
from runs import WARM_START, actor_processes, rows, tiny_run, when_step
from transformers import AutoModelForCausalLM

from mimosa.cluster.commands import sft, train
from mimosa.configs.loader import load
from mimosa.observe.run_folder import RunFolderError

pytestmark = [pytest.mark.usefixtures("ray_cluster"), pytest.mark.timeout(300)]


def learned(folder) -> list[dict]:
    """The rows of a supervised run without what depends on the clock."""
    return [{k: v for k, v in row.items() if not k.startswith(("time/", "tokens_per_second/"))} for row in rows(folder)]


def test_every_update_has_its_row(warm_run):
    table, summary = rows(warm_run), json.loads((warm_run / "summary.json").read_text())
    assert [row["step"] for row in table] == list(range(1, summary["steps"] + 1))
    assert all(row["policy/grad_norm"] > 0 and row["time/step"] > 0 for row in table)
    probes = {row["step"]: row["pass@1/probe"] for row in table if "pass@1/probe" in row}
    assert list(probes) == list(range(20, summary["steps"] + 1, 20))
    assert summary["pass@1/probe"] == probes[summary["steps"]] >= 0.2 > max([0, *list(probes.values())[:-1]])
    assert summary["loss"] == table[-1]["policy/loss"] < table[0]["policy/loss"] / 2


def test_a_stopped_and_a_killed_run_learns_what_an_undisturbed_one_does(warm_run, tmp_path, capsys):
    folder = tmp_path / "disturbed"
    with when_step(folder, 25, lambda: os.kill(os.getpid(), signal.SIGINT)) as errors:
        assert sft(tiny_run(folder, *WARM_START), "disturbed") == 130
    assert not errors
    stopped_at = len(rows(folder))
    assert (
        f"stopped after update {stopped_at}, whose policy lies in {folder}/policy; go on with"
        in capsys.readouterr().out
    )
    assert [p.name for p in sorted((folder / "checkpoints").iterdir())] == ["sft_000020", f"sft_{stopped_at:06d}"]
    assert AutoModelForCausalLM.from_pretrained(folder / "policy").config.n_layer == 1

    def kill() -> None:
        (victim,) = actor_processes("LearnerActor")
        victim.send_signal(signal.SIGKILL)

    with when_step(folder, stopped_at + 3, kill) as errors:
        assert sft(load(f"{folder}/config.yaml", ["resume=true"]), "disturbed") == 0
    assert not errors
    assert "starting the learners again from the last checkpoint" in capsys.readouterr().out
    assert learned(folder) == learned(warm_run)


def test_a_supervised_run_is_not_gone_on_with_by_reinforcement_learning(warm_run):
    before = (warm_run / "config.yaml").read_text()
    with pytest.raises(RunFolderError, match=r"resume: got .*warm, a run of mimosa sft, wanted one of mimosa train"):
        train(load(f"{warm_run}/config.yaml", ["resume=true"]), "warm")
    assert (warm_run / "config.yaml").read_text() == before


def test_a_run_of_another_shape_is_not_gone_on_with(warm_run):
    before = (warm_run / "config.yaml").read_text()
    with pytest.raises(
        ValueError, match=r"sft_\d+: tensor backbone\.embedding\.weight has shape \(\d+, 32\), wanted \(\d+, 64\)"
    ):
        sft(load(f"{warm_run}/config.yaml", ["resume=true", "model.d_model=64"]), "warm")
    with pytest.raises(ValueError, match=r"learner\.actors: got 2, wanted 1, with which"):
        sft(load(f"{warm_run}/config.yaml", ["resume=true", "learner.actors=2"]), "warm")
    assert (warm_run / "config.yaml").read_text() == before
