"""What a user types, and what a mistake costs: one line, status 2, before Ray starts."""

import json
import subprocess
import sys

import pytest
import torch
from builders import tiny_config

from mimosa import __version__
from mimosa.__main__ import main
from mimosa.configs.schema import TokenizerConfig
from mimosa.policy.mamba3 import Mamba3ForCausalLM
from mimosa.policy.tokenizer import chars_tokenizer, load_tokenizer


@pytest.fixture(autouse=True)
def no_ray(monkeypatch):
    import ray

    def refuse(*_, **__):
        raise AssertionError("Ray was started")

    monkeypatch.setattr(ray, "init", refuse)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["train", "quickstart", "rollout.actor=3"], "rollout.actors"),
        (["train", "quickstart", "train.steps=many"], "train.steps"),
        (["train", "quickstrat"], "quickstart"),
        (["train", "quickstart", "device=tpu"], "device"),
        (["train", "gsm8k", "data.train.path=nowhere.jsonl"], "nowhere.jsonl"),
        (["train", "quickstart", "data.max_prompt_tokens=3"], "data.max_prompt_tokens"),
        (["train", "quickstart", "model.path=nowhere/policy", "tokenizer.kind=policy"], "model.path"),
        (["train", "smoke", "resume=true", "run.dir=empty"], "holds no run"),
        (["eval", "--policy", "nowhere"], "nowhere"),
        (["generate", "x.jsonl", "--policy", "nowhere", "--out", "o", "--samples", "0"], "--samples: got 0"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_mistake_is_one_line_that_names_it(arguments, said, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert said in captured.err
    assert len(captured.err.strip().splitlines()) == 1
    assert not list(tmp_path.rglob("metrics.jsonl"))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "got no rows"),
        ('{"question": "a?", "answer": "#### 1"}\n\n{"question": "b?"}\n', "train.jsonl line 3"),
        ('{"question": "a?", "answer": "no mark"}\n', "train.jsonl line 1"),
        ('{"question": "a?", "answer": "#### 1"}\n{broken\n', "train.jsonl line 2"),
    ],
    ids=["empty", "no ground truth", "no mark", "broken"],
)
def test_bad_rows_are_named_by_line(content, said, capsys, tmp_path):
    (tmp_path / "train.jsonl").write_text(content)
    status = main(["train", "gsm8k", f"data.train.path={tmp_path}/train.jsonl", f"run.dir={tmp_path}/run"])
    assert status == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_row_without_a_demonstration_is_named_where_one_is_wanted(capsys, tmp_path):
    rows = [{"question": f"{i}?", "answer": f"#### {i}", "solution": f"it is {i}"} for i in range(60)]
    del rows[7]["solution"]
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    arguments = [f"data.train.path={tmp_path}/train.jsonl", "data.fields.response=solution", f"run.dir={tmp_path}/run"]
    assert main(["sft", "gsm8k", "sft.steps=2", *arguments]) == 2
    assert "prompt '8': no response, wanted a demonstration (data.fields.response names it)" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_help_and_version():
    done = subprocess.run([sys.executable, "-m", "mimosa", "--version"], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == f"mimosa {__version__}"
    done = subprocess.run([sys.executable, "-m", "mimosa", "--help"], capture_output=True, text=True, timeout=60)
    assert "examples:" in done.stdout and "mimosa train quickstart" in done.stdout


@pytest.mark.parametrize("form", ["state-spaces", "hf"])
def test_export(tmp_path, form):
    """The policy in another format, and the tokenizer beside it: what `mimosa eval` wants of a folder."""
    torch.manual_seed(0)
    model = Mamba3ForCausalLM(tiny_config())
    model.save_pretrained(tmp_path / "policy")
    chars_tokenizer("0123+").save_pretrained(tmp_path / "policy")
    assert main(["export", str(tmp_path / "policy"), str(tmp_path / "out"), "--format", form]) == 0
    assert ("ssm_cfg" in json.loads((tmp_path / "out" / "config.json").read_text())) == (form == "state-spaces")
    assert load_tokenizer(TokenizerConfig(), str(tmp_path / "out")).encode("3+1") == [6, 7, 4]
    loaded = Mamba3ForCausalLM.from_pretrained(tmp_path / "out")
    assert torch.equal(loaded(torch.arange(5)[None]).logits, model(torch.arange(5)[None]).logits)
