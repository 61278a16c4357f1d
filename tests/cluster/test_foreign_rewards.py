"""A user's reward function in a whole run: whatever it does ends in the right status, the run goes on, the console says where."""

import contextlib
import io
import json
from pathlib import Path

import psutil
import pytest
from runs import rollouts, rows, tiny_run

from mimosa.cluster.commands import train

pytestmark = [pytest.mark.usefixtures("ray_cluster"), pytest.mark.timeout(400)]

FILE = Path(__file__).parent / "misbehaving.py"
FAILED = {  # what a row makes the function do: words of the reason
    "raise": "raised KeyError: 'no such key' (line 12)",
    "sleep": "ran into the time limit of 1.2 s, as it does with the ground truth for an answer",
    "c_code": "ran into the time limit of 1.2 s, as it does with the ground truth for an answer",
    "fork": "ran into the time limit of 1.2 s, as it does with the ground truth for an answer",
    "allocate": "ran into the memory limit of 2000 MiB, as it does with the ground truth for an answer",
    "exit": "died (exit code 3)",
    "nan": "returned the score nan, wanted a finite number",
    "string": "returned str '1.0', wanted a number",
    "minus": "returned the score -1, wanted one from 0 to 1; the options low and high name another scale",
    "too_few": "returned 3 scores for 4 answers",
}


@pytest.fixture(scope="module")
def run(ray_cluster, tmp_path_factory):
    folder = tmp_path_factory.mktemp("foreign")
    kinds = [*FAILED, "c_code_unless_right", "not_for_me", "nothing odd", "nothing odd either"]
    for name, chosen in (("train", kinds), ("eval", ["nothing odd", "string"])):
        lines = [
            {"id": f"row {what}", "prompt": f"{name}: {what}", "ground_truth": "42", "does": what} for what in chosen
        ]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    config = tiny_run(
        folder / "run", f"data.train.path={folder}/train.jsonl", f"data.eval.path={folder}/eval.jsonl",
        "data.max_prompt_tokens=64", "tokenizer.kind=bytes", f"reward.verifier={FILE}:reward", "reward.options={memory_mb: 2000}",
        "reward.truncated=score", "verifier.timeout=0.3", "verifier.retries=0", "train.steps=2", f"train.prompts={len(kinds)}",
        "verifier.alarm_window=8",
    )  # fmt: skip
    with contextlib.redirect_stdout(io.StringIO()) as console:
        assert train(config, "foreign") == 0
    return folder / "run", console.getvalue()


def test_every_misbehaviour_ends_in_its_status_and_the_run_goes_on(run):
    folder, _ = run
    assert [row["step"] for row in rows(folder)] == [1, 2]
    for judged in rollouts(folder).values():
        for row in judged:
            what = row["uid"].removeprefix("row ").partition("@")[0]
            if what in FAILED:
                assert (row["status"], row["score"]) == ("verifier_failed", None), row
                assert row["reason"].startswith(f"misbehaving.py:reward on row 'row {what}': ")
                assert FAILED[what] in row["reason"]
            elif what == "c_code_unless_right":
                assert (row["status"], row["score"]) == ("scored", 0.0)
                assert row["reason"] == "misbehaving.py:reward: the answer ran into the time limit of 1.2 s"
            elif what == "not_for_me":
                assert (row["status"], row["score"]) == ("skipped", None)


def test_a_group_is_judged_in_one_call(run):
    folder, _ = run
    for judged in rollouts(folder).values():
        for what in ("nothing odd", "nothing odd either"):
            scores = [row["score"] for row in judged if row["uid"].startswith(f"row {what}@")]
            assert scores == [0.0, 0.25, 0.5, 0.75]


def test_the_console_names_function_and_row_of_every_failure(run):
    _, console = run
    for what, words in FAILED.items():
        (line,) = (line for line in console.splitlines() if f"misbehaving.py:reward on row 'row {what}'" in line)
        assert line.startswith("warning: step ") and "4 judgements failed" in line and words in line
    assert (
        "evaluation at step 0, counted as wrong: a judgement failed: misbehaving.py:reward on row 'eval:row string'"
        in console
    )
    assert "71.4% of the judgements failed, more than verifier.alarm_share=0.05" in console


def test_metrics_have_rates_of_the_verifier(run):
    folder, _ = run
    for row in rows(folder):
        assert row["verifier/misbehaving.py:reward/failed_share"] == pytest.approx(10 / 14)
        assert row["verifier/misbehaving.py:reward/skipped_share"] == pytest.approx(1 / 14)
        assert row["verifier/misbehaving.py:reward/score_mean"] == pytest.approx(0.25)  # 0.375 twice, and once 0
        assert row["verifier/failed"] == 40


def test_nothing_is_left_of_it(run):
    left = [p for p in psutil.process_iter(["cmdline"]) if str(FILE) in " ".join(p.info["cmdline"] or [])]
    psutil.wait_procs(left, timeout=10)
    assert not [p for p in left if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]
