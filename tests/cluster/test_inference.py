"""generate and eval from the command line, against a policy folder."""

import json

import numpy as np
import pytest
import torch
from builders import tiny_config

from mimosa.__main__ import main
from mimosa.policy.mamba3 import Mamba3ForCausalLM
from mimosa.policy.tokenizer import chars_tokenizer

pytestmark = [pytest.mark.usefixtures("ray_cluster"), pytest.mark.timeout(200)]
SMALL = ["rollout.slots=8", "rollout.actors=2", "log.progress=false"]


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    """A random policy with sharpened logits, and its tokenizer."""
    folder = tmp_path_factory.mktemp("policy")
    tokenizer = chars_tokenizer("0123456789=\n:useraitn ", ("\\boxed{", "}"))
    torch.manual_seed(0)
    model = Mamba3ForCausalLM(tiny_config(vocab_size=len(tokenizer), eos_token_id=1))
    with torch.no_grad():
        model.backbone.embedding.weight.mul_(4)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def test_generate_writes_every_sample_in_order_with_its_logprobs(policy, tmp_path):
    prompts = [{"id": f"q{i}", "prompt": text} for i, text in enumerate(["12=", "7", "305=", "99="])]
    prompts.append({"id": "chat", "prompt": [{"role": "user", "content": "3="}]})
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(p) + "\n" for p in prompts))
    arguments = ["generate", str(tmp_path / "in.jsonl"), "--policy", str(policy), "--samples", "3", "--max-tokens", "7"]
    assert main([*arguments, "--out", str(tmp_path / "a.jsonl"), *SMALL]) == 0
    assert main([*arguments, "--out", str(tmp_path / "b.jsonl"), *SMALL, "rollout.actors=1", "rollout.slots=2"]) == 0
    rows, again = ([json.loads(x) for x in (tmp_path / f).read_text().splitlines()] for f in ("a.jsonl", "b.jsonl"))
    assert [(r["id"], r["sample"]) for r in rows] == [(p["id"], i) for p in prompts for i in range(3)]
    assert [r["token_ids"] for r in rows] == [r["token_ids"] for r in again]
    model = Mamba3ForCausalLM.from_pretrained(policy)
    tokenizer = chars_tokenizer("0123456789=\n:useraitn ", ("\\boxed{", "}"))
    for row in rows[:12]:
        prompt = tokenizer(prompts[int(row["id"][1:])]["prompt"])["input_ids"]
        ids = torch.tensor([prompt + row["token_ids"]])
        with torch.no_grad():
            out = model(ids[:, :-1], targets=ids[:, 1:])
        np.testing.assert_allclose(row["logprobs"], out.logprobs[0, len(prompt) - 1 :], atol=1e-5)
        assert row["text"] == tokenizer.decode(row["token_ids"], skip_special_tokens=True)
        assert row["finish_reason"] == ("stop" if row["token_ids"][-1] == 1 else "length")
        assert row["policy_version"] == [0] * len(row["token_ids"])


def test_eval_prints_pass_at_k(policy, tmp_path):
    out = tmp_path / "eval.json"
    arguments = ["eval", "--policy", str(policy), "--out", str(out), "smoke", "data.eval_prompts=9", "eval.samples=4"]
    assert main([*arguments, *SMALL, "rollout.actors=1", "verifier.actors=1"]) == 0
    found = json.loads(out.read_text())
    assert found.keys() >= {"pass@1", "pass@2", "pass@4", "prompts", "samples", "standard_error", "policy", "seed"}
    assert (found["prompts"], found["samples"]) == (9, 4)
    assert 0 <= found["pass@1"] <= found["pass@4"] <= 1


def test_a_row_without_a_prompt_is_named_before_ray_starts(policy, tmp_path, capsys):
    (tmp_path / "in.jsonl").write_text('{"id": "a", "prompt": "1="}\n\n{"id": "b"}\n')
    status = main(["generate", str(tmp_path / "in.jsonl"), "--policy", str(policy), "--out", str(tmp_path / "o")])
    assert status == 2
    assert "line 3: no prompt" in capsys.readouterr().err
    assert not (tmp_path / "o").exists()
