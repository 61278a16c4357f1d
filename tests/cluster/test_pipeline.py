"""Whole runs on a local Ray: what is written, what survives the death of its parts, what is refused."""

import json
import os
import signal

import psutil
import pytest
from runs import actor_processes, rollouts, rows, tiny_run, when_step
from transformers import AutoModelForCausalLM, AutoTokenizer

from mimosa.cluster.commands import train
from mimosa.cluster.workload import build_tokenizer, load_workload
from mimosa.configs.loader import load
from mimosa.observe.run_folder import RunFolder, RunFolderError
from mimosa.rollout.stream import PromptStream

pytestmark = [pytest.mark.usefixtures("ray_cluster"), pytest.mark.timeout(400)]


def expected_uids(config) -> list[list[str]]:
    """Uids of each step, from the data stream alone."""
    workload = load_workload(config, build_tokenizer(config))
    stream = PromptStream(workload.train, config.seed)
    return [[uid for _, uid in stream.take(config.train.prompts)] for _ in range(config.train.steps)]


def check_every_sample_once(folder, config):
    done = rollouts(folder)
    for step, uids in enumerate(expected_uids(config), start=1):
        wanted = [(uid, sample) for uid in uids for sample in range(config.train.group)]
        assert [(row["uid"], row["sample"]) for row in done[step]] == wanted
    assert [row["step"] for row in rows(folder)] == list(range(1, config.train.steps + 1))


@pytest.fixture(scope="module")
def finished(warm, tmp_path_factory):
    """One undisturbed run, looked at by several tests."""
    folder = tmp_path_factory.mktemp("runs") / "plain"
    config = tiny_run(folder, "train.eval_every=2", "train.steps=6", "rollout.actors=1", "verifier.actors=1", *warm)
    assert train(config, "plain") == 0
    return folder, config


def test_every_prompt_is_sampled_and_judged_once(finished):
    check_every_sample_once(*finished)


def test_rows_carry_what_a_person_steers_by(finished):
    folder, _ = finished
    for row in rows(folder):
        assert {
            "step", "policy_version", "reward/mean", "reward/zero_variance_groups", "completion/length_mean",
            "completion/truncated", "policy/kl_rollout_learner", "policy/max_rollout_learner", "policy/entropy",
            "policy/grad_norm", "policy_age/mean", "tokens_per_second/rollout", "tokens_per_second/train", "time/rollout",
            "time/verify", "time/learn", "time/step",
        } <= row.keys()  # fmt: skip
        assert row["policy_age/mean"] == 0
        assert 0 <= row["policy/kl_rollout_learner"] < 1e-6
        judged = rollouts(folder)[row["step"]]
        scores = [r["score"] for r in judged if r["score"] is not None]
        assert row["reward/mean"] == pytest.approx(sum(scores) / len(scores))
        assert row["completion/truncated"] == pytest.approx(sum(r["finish_reason"] == "length" for r in judged) / 24)


def test_summary_curves_and_configuration(finished):
    folder, config = finished
    summary = json.loads((folder / "summary.json").read_text())
    evaluations = rows(folder, "evaluations.jsonl")
    assert [e["step"] for e in evaluations] == [0, 2, 4, 6]
    assert summary["pass@1/warm"] == evaluations[0]["eval/pass@1"]
    assert summary["pass@1/final"] == evaluations[-1]["eval/pass@1"]
    assert (summary["eval/prompts"], summary["seed"], summary["steps/rl"]) == (8, 0, 6)
    assert (folder / "curves.png").read_bytes().startswith(b"\x89PNG")
    saved = load(str(folder / "config.yaml"), [])
    assert saved.train == config.train
    assert {"commit", "torch", "ray"} <= saved.provenance.keys()


def test_the_policy_folder_is_one_of_hugging_face(finished):
    folder, _ = finished
    model = AutoModelForCausalLM.from_pretrained(folder / "policy")
    tokenizer = AutoTokenizer.from_pretrained(folder / "policy")
    ids = tokenizer("123=", return_tensors="pt")["input_ids"]
    assert model(ids).logits.shape == (1, 4, len(tokenizer))


def test_the_last_checkpoints_are_kept(finished):
    folder, _ = finished
    assert [p.name for p in sorted((folder / "checkpoints").iterdir())] == ["step_000005", "step_000006"]


def test_a_folder_that_holds_a_run_is_not_used_again(finished):
    folder, _ = finished
    with pytest.raises(RunFolderError, match=r"run.dir: got .*plain, which already holds a run"):
        train(tiny_run(folder), "again")


def test_a_folder_in_use_is_refused(tmp_path):
    held = RunFolder.open(str(tmp_path / "run"), "", "", False)
    with pytest.raises(RunFolderError, match=f"in use by process {os.getpid()}"):
        RunFolder.open(str(tmp_path / "run"), "", "", False)
    held.release()


def test_killed_rollout_and_verifier_actors_cost_nothing_but_time(tmp_path, warm):
    folder = tmp_path / "killed"
    config = tiny_run(folder, "train.steps=8", "train.mode=one_step_off", "train.eval_every=3", *warm)

    def kill() -> None:
        victims = [actor_processes(kind)[0] for kind in ("RolloutActor", "VerifierActor")]
        for victim in victims:
            victim.send_signal(signal.SIGKILL)

    with when_step(folder, 2, kill) as errors:
        assert train(config, "killed") == 0
    assert not errors
    check_every_sample_once(folder, config)
    check_one_step_off(rows(folder))
    summary = json.loads((folder / "summary.json").read_text())
    assert (summary["restarts/rollout"], summary["restarts/verifier"]) == (1, 1)


def test_a_killed_rank_of_two_resumes_from_the_last_checkpoint(tmp_path, warm, finished, capsys):
    folder = tmp_path / "learner"
    config = tiny_run(
        folder, "train.steps=6", "checkpoint.every=2", "learner.actors=2", "learner.zero_stage=1", "rollout.actors=1",
        "verifier.actors=1", "train.eval_every=2", *warm,
    )  # fmt: skip
    ranks: list[int] = []

    def kill() -> None:
        ranks.extend(p.pid for p in actor_processes("LearnerActor"))
        os.kill(ranks[1], signal.SIGKILL)

    with when_step(folder, 3, kill) as errors:
        assert train(config, "learner") == 0
    assert not errors
    assert len(ranks) == 2
    assert not [pid for pid in ranks if psutil.pid_exists(pid)]  # the survivor was replaced too
    assert capsys.readouterr().out.count("starting the learners again from the last checkpoint") == 1
    check_every_sample_once(folder, config)
    # What was done again came out as it would have without the death, with one rank or two.
    undisturbed, _ = finished
    for key in ("policy_version", "reward/mean", "completion/tokens"):
        assert [row[key] for row in rows(folder)] == [row[key] for row in rows(undisturbed)]
    assert [r["text"] for r in rollouts(folder)[6]] == [r["text"] for r in rollouts(undisturbed)[6]]
    assert json.loads((folder / "summary.json").read_text())["policy_version"] == rows(folder)[-1]["policy_version"]


def check_one_step_off(table):
    version = 0
    for row in table:
        assert row["policy_age/max"] <= 1
        assert row["policy/kl_rollout_learner"] < 1e-6  # against the weights that sampled, not the newer ones
        version += row["policy/updates"] > 0
        assert row["policy_version"] == version
    assert version >= 3
    assert max(row["policy_age/max"] for row in table) == 1


def test_without_a_signal_nothing_moves_on_any_rank(tmp_path, capsys):
    """GSM8K's form with a random policy: every reward is 0, two learner ranks skip together."""
    data = tmp_path / "train.jsonl"
    questions = [
        {"question": f"Tom has {i} apples and buys 2. How many?", "answer": f"{i}+2 #### {i + 2}"} for i in range(40)
    ]
    data.write_text("".join(json.dumps(q) + "\n" for q in questions))
    folder = tmp_path / "gsm8k"
    config = load("gsm8k", [
        f"data.train.path={data}", "train.steps=3", "train.prompts=4", "train.group=2", "rollout.max_tokens=5",
        "train.updates=2", "learner.actors=2", "learner.threads=1", "data.eval_prompts=3", "data.eval_fraction=0.2",
        "rollout.actors=1", "verifier.actors=1",
        f"run.dir={folder}",
    ])  # fmt: skip
    assert train(config, "gsm8k") == 0
    for row in rows(folder):
        assert (row["reward/mean"], row["policy_version"], row["policy/updates"]) == (0, 0, 0)
        assert row["reward/zero_variance_groups"] == 4
        assert row["policy/grad_norm"] is None
    assert capsys.readouterr().out.count("nothing to learn from") == 3
