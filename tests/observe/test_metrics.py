"""Rows on their way to metrics.jsonl and, when asked, to wandb."""

import json
import math
import sys
import time

import pytest

from mimosa.configs.errors import ConfigError
from mimosa.observe.metrics import MetricsLog, engine_metrics, length_metrics
from mimosa.records import RolloutStats


def test_numbers_that_json_cannot_say_are_null(tmp_path):
    log = MetricsLog(tmp_path / "metrics.jsonl")
    log.write({"step": 1, "reward/mean": math.nan, "policy/grad_norm": math.inf, "loss": None, "flat": 3})
    assert json.loads((tmp_path / "metrics.jsonl").read_text()) == {
        "step": 1, "reward/mean": None, "policy/grad_norm": None, "loss": None, "flat": 3,
    }  # fmt: skip


def test_without_being_asked_wandb_is_left_alone(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)  # importing it would fail
    log = MetricsLog(tmp_path / "metrics.jsonl")
    log.write({"step": 1})
    log.close()
    assert [file.name for file in tmp_path.iterdir()] == ["metrics.jsonl"]


def test_wandb_offline_writes_the_rows_to_the_run_folder(tmp_path):
    log = MetricsLog(tmp_path / "metrics.jsonl", "offline", "mimosa", "a run", {"seed": 5})
    for step in (1, 2):
        log.write({"step": step, "reward/mean": 0.25, "policy/grad_norm": math.nan})
    log.close()
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 2
    (written,) = tmp_path.glob("wandb/offline-run-*/run-*.wandb")
    content, deadline = b"", time.monotonic() + 20  # its process flushes a little after finish() has returned
    while content.count(b"reward/mean") < 2 and time.monotonic() < deadline:
        time.sleep(0.05)
        content = written.read_bytes()
    assert content.count(b"reward/mean") >= 2
    assert b"seed" in content and b"a run" in content and b"grad_norm" not in content


def test_wandb_that_does_not_know_us_is_a_mistake_of_one_line(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))  # no .netrc, no settings
    for name in ("WANDB_API_KEY", "NETRC"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ConfigError, match=r"^log\.wandb: got online, wanted offline or off .*No API key.*$"):
        MetricsLog(tmp_path / "metrics.jsonl", "online", "mimosa", "a run", {})


def test_engines_are_counted_between_two_looks():
    before = RolloutStats(
        prompt_tokens=10, decoded_rows=100, idle_rows=50, slot_steps=400, swap_kl=1.0, swap_sequences=2
    )
    now = RolloutStats(prompt_tokens=25, decoded_rows=300, idle_rows=90, slot_steps=800, swap_kl=1.5, swap_sequences=4)
    row = engine_metrics(before, now)
    assert row["rollout/prompt_tokens"] == 15
    assert row["rollout/slots_in_use"] == pytest.approx(160 / 400)
    assert row["rollout/idle_rows"] == pytest.approx(40 / 200)
    assert row["rollout/swap_kl"] == pytest.approx(0.25)
    still = engine_metrics(now, now)
    assert (still["rollout/prompt_tokens"], still["rollout/slots_in_use"]) == (0, 0)
    assert math.isnan(still["rollout/swap_kl"])
    assert engine_metrics(now, before)["rollout/prompt_tokens"] == 0  # an engine died and its successor counts from 0


def test_lengths_of_what_is_trained_against_what_was_sampled():
    assert length_metrics([2, 4, 9], [2, 4]) == {"completion/length_trained": 3.0, "completion/length_bias": -2.0}
    assert all(math.isnan(value) for value in length_metrics([2, 4], []).values())
