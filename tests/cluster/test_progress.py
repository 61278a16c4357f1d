import json
import resource
from contextlib import contextmanager

import pytest
import torch
from builders import samples, tiny_config

from mimosa.cluster.progress import CheckpointError, Clock, Progress, Saver
from mimosa.configs.schema import CheckpointConfig, LearnerConfig, OptimizerConfig
from mimosa.observe.run_folder import RunFolder
from mimosa.policy.mamba3 import Mamba3ForCausalLM
from mimosa.rollout.stream import StreamState
from mimosa.trainer.checkpoint import load_learner, save_learner
from mimosa.trainer.learner import Learner
from mimosa.trainer.pack import pack_updates


@contextmanager
def disk_full_after(size: int):
    """No file of this process may grow beyond `size` bytes: writing fails as it does on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.fixture
def learner(process_group):
    torch.manual_seed(0)
    config, optimizer = LearnerConfig(), OptimizerConfig(lr=1e-3)
    return Learner(Mamba3ForCausalLM(tiny_config()), config, optimizer, rank=0, world=1, updates=5)


def test_a_full_disk_leaves_the_last_checkpoint_whole(learner, tmp_path):
    saver = Saver(RunFolder(tmp_path), CheckpointConfig(keep=2))
    saver.write(Progress(StreamState(0, 6), step=1, version=1), lambda folder: save_learner(learner, folder))
    before = learner.checksum()
    learner.learn(pack_updates(samples(8), 1, 1, 100, 0))
    with (
        disk_full_after(100_000),
        pytest.raises(CheckpointError, match=r"step 2 could not be written with \d+ MiB free: .*step_000001"),
    ):
        saver.write(Progress(StreamState(0, 12), step=2, version=2), lambda folder: save_learner(learner, folder))
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == ["step_000001"]
    assert saver.read(saver.latest()) == Progress(StreamState(0, 6), step=1, version=1)
    load_learner(learner, str(saver.latest()))
    assert learner.checksum() == before


def test_only_the_newest_checkpoints_stay(tmp_path):
    saver = Saver(RunFolder(tmp_path), CheckpointConfig(keep=2))
    for step in (1, 2, 3, 10):
        saver.write(Progress(StreamState(), step=step), lambda folder: None)
    assert [p.name for p in saver.run.checkpoints()] == ["step_000003", "step_000010"]


def test_a_checkpoint_that_was_cut_off_is_none(tmp_path):
    run = RunFolder(tmp_path)
    Saver(run, CheckpointConfig()).write(Progress(StreamState(), step=4), lambda folder: None)
    run.begin_checkpoint(5)
    assert [p.name for p in run.checkpoints()] == ["step_000004"]
    again = RunFolder.open(str(tmp_path), "", "", True)
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == ["step_000004"]
    again.release()


def test_rows_after_a_checkpoint_are_dropped_and_a_torn_line_is_no_row(tmp_path):
    run = RunFolder(tmp_path)
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps({"step": s}) + "\n" for s in (1, 2, 3)) + '{"ste')
    for step in (2, 3):
        run.write_rollouts(step, [])
    run.append_evaluation({"step": 0})
    (tmp_path / "evaluations.jsonl").write_text('{"step": 0}\n{"st')
    run.truncate_after(9)
    run.append_evaluation({"step": 3})
    run.truncate_after(2)
    assert [row["step"] for row in run.metrics()] == [1, 2]
    assert [row["step"] for row in run.evaluations()] == [0]
    assert [f.name for f in (tmp_path / "rollouts").iterdir()] == ["step_000002.jsonl"]


def test_a_torn_line_in_the_middle_is_an_error(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"ste\n{"step": 2}\n')
    with pytest.raises(json.JSONDecodeError):
        RunFolder(tmp_path).metrics()


def test_unnamed_runs_are_numbered_on(tmp_path):
    names = []
    for _ in range(3):
        run = RunFolder.open("", str(tmp_path), "smoke-seed1", False)
        (run.path / "config.yaml").touch()
        names.append(run.path.name)
        run.release()
    assert names == ["smoke-seed1", "smoke-seed1-2", "smoke-seed1-3"]


def test_clock_adds_up():
    clock = Clock()
    for _ in range(2):
        with clock("learn"):
            pass
    assert clock.seconds["learn"] > 0 and clock.seconds["eval"] == 0
