"""`mimosa tune` on the quickstart's policy, broken off and gone on with."""

import json
import os
import signal
import threading
import time

import pytest

from mimosa.__main__ import main
from mimosa.configs.loader import load

pytestmark = [pytest.mark.usefixtures("ray_cluster"), pytest.mark.timeout(200)]


def rows(folder) -> list[dict]:
    file = folder / "measurements.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


@pytest.fixture(scope="module")
def lengths(tmp_path_factory):
    folder = tmp_path_factory.mktemp("rollouts")
    tokens = [3] * 30 + [40]
    (folder / "step_000001.jsonl").write_text("".join(json.dumps({"step": 1, "tokens": n}) + "\n" for n in tokens))
    return folder


def test_an_interrupted_search_keeps_its_measurements_and_goes_on_to_a_report(tmp_path, lengths, capsys):
    out = tmp_path / "tune"
    command = ["tune", "quickstart", "--lengths", str(lengths), "--out", str(out), "train.prompts=16"]

    def interrupt() -> None:
        deadline = time.monotonic() + 120
        while len(rows(out)) < 2 and time.monotonic() < deadline:
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt, daemon=True)
    thread.start()
    assert main([*command, "--minutes", "0.6"]) == 130
    thread.join(5)
    kept = (out / "measurements.jsonl").read_bytes()
    assert 2 <= len(rows(out)) < 10
    said = capsys.readouterr().out
    assert "the same command goes on" in said and "<- best" in said

    count = len(rows(out))
    assert main([*command, "--minutes", "0.01"]) == 0
    said = capsys.readouterr().out
    assert f"{count} settings were measured before" in said
    assert (out / "measurements.jsonl").read_bytes().startswith(kept)
    found = [row for row in rows(out) if not row["failure"]]
    by_setting: dict[str, list[float]] = {}
    for row in found:
        by_setting.setdefault(json.dumps(row["setting"]), []).append(row["tokens_per_second"])
    best = json.loads(max(by_setting, key=lambda name: sorted(by_setting[name])[(len(by_setting[name]) - 1) // 2]))
    assert all(0 < row["slots_in_use"] < 1 and row["floor_share"] > 0 for row in found)  # 40 tokens among 3: a tail
    config = load(str(out / "tuned.yaml"), [])
    assert (config.rollout.actors, config.rollout.slots) == (best["actors"], best["slots"])
    assert (config.rollout.block, config.rollout.decode) == (best["block"], best["mode"])
    assert config.data.train.task == "arithmetic"  # the rest is the preset's
    assert (out / "tuning.png").read_bytes().startswith(b"\x89PNG")
    assert "bound by" in said and "floor of a decode step" in said


@pytest.mark.parametrize(
    ("arguments", "said"),
    [(["--minutes", "0"], "--minutes"), (["--lengths", "nowhere"], "nowhere"), (["rollout.slot=3"], "rollout.slots")],
    ids=["minutes", "lengths", "key"],
)
def test_a_mistake_is_one_line(arguments, said, capsys, tmp_path):
    assert main(["tune", "quickstart", "--out", str(tmp_path / "o"), *arguments]) == 2
    assert said in capsys.readouterr().err.strip().splitlines()[-1]
    assert not (tmp_path / "o").exists()
