"""Runs whose steps end before all that was begun has ended: every group once, none lost, ages seen."""

import json
import signal

import pytest
from runs import actor_processes, rollouts, rows, tiny_run, when_step

from mimosa.cluster.commands import train
from mimosa.cluster.workload import build_tokenizer, load_workload
from mimosa.configs.loader import load
from mimosa.rollout.stream import PromptStream

pytestmark = [pytest.mark.usefixtures("ray_cluster"), pytest.mark.timeout(400)]
PARTIAL = ["rollout.partial=true", "rollout.oversample=0.7", "rollout.max_tokens=24", "rollout.slots=8", "rollout.block=2",
           "learner.optimizer.lr=1e-3", "learner.optimizer.warmup=0", "reward.truncated=score"]  # fmt: skip


def drawn_uids(config, count: int) -> list[str]:
    workload = load_workload(config, build_tokenizer(config))
    return [uid for _, uid in PromptStream(workload.train, config.seed).take(count)]


def check_groups(folder, config) -> dict[str, int]:
    """Whole groups of drawn prompts, each once -> the step in which each was trained."""
    steps = {}
    for step, judged in rollouts(folder).items():
        names = [(row["uid"], row["sample"]) for row in judged]
        uids = list(dict.fromkeys(uid for uid, _ in names))
        assert names == [(uid, sample) for uid in uids for sample in range(config.train.group)]
        assert len(uids) == config.train.prompts
        assert not steps.keys() & set(uids)
        steps |= dict.fromkeys(uids, step)
    drawn = drawn_uids(config, 3 * len(steps))
    assert steps.keys() <= set(drawn)
    return steps


def test_a_step_ends_with_its_groups_and_the_others_go_on(tmp_path, warm):
    """Two steps, and four more of the resumed run, which begins again what was under way. An evaluation parks it meanwhile."""
    folder = tmp_path / "partial"
    config = tiny_run(folder, "train.steps=2", *PARTIAL, *warm)
    assert train(config, "partial") == 0
    pending = json.loads((folder / "checkpoints" / "step_000002" / "progress.json").read_text())["pending"]
    assert len(pending) == 5
    assert not set(pending) & check_groups(folder, config).keys()
    again = load(str(folder / "config.yaml"), ["train.steps=6", "train.eval_every=4", "resume=true"])
    assert train(again, "partial") == 0
    steps, table = check_groups(folder, again), rows(folder)
    assert [row["step"] for row in table] == [1, 2, 3, 4, 5, 6]
    assert all(steps.get(uid, 6) <= 4 for uid in pending)  # first, not some time
    assert all(row["rollout/groups_under_way"] == 5 for row in table)
    assert all(0 < row["rollout/slots_in_use"] <= 1 for row in table)
    assert table[4]["rollout/parked"] == table[4]["rollout/resumed"] > 0
    assert any(row["rollout/swap_kl"] is not None for row in table)
    versions = [row["policy_version"] for judged in rollouts(folder).values() for row in judged]
    assert any(len(found) > 1 for found in versions), "no sequence went on under new weights"
    before = [0, *(row["policy_version"] for row in table)]
    for step, judged in rollouts(folder).items():
        assert table[step - 1]["policy_age/max"] == before[step - 1] - min(min(row["policy_version"]) for row in judged)


def test_an_actor_killed_loses_no_group(tmp_path, warm):
    """While the next step's groups are made and weights come in between their slices."""
    folder = tmp_path / "killed"
    config = tiny_run(folder, "train.steps=6", "train.mode=one_step_off", *PARTIAL, *warm)

    def kill() -> None:
        actor_processes("RolloutActor")[0].send_signal(signal.SIGKILL)

    with when_step(folder, 2, kill) as errors:
        assert train(config, "killed") == 0
    assert not errors
    steps = check_groups(folder, config)
    assert len(set(drawn_uids(config, len(steps))) - steps.keys()) <= 5  # none is passed over for ever
    assert json.loads((folder / "summary.json").read_text())["restarts/rollout"] == 1
