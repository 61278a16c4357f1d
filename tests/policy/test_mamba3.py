import json
import warnings

import pytest
import torch
from builders import tiny_config
from goldens import case, error, load, names, needs_goldens
from transformers import AutoConfig, AutoModelForCausalLM

from mimosa.policy.config import Mamba3Config
from mimosa.policy.mamba3 import Mamba3ForCausalLM
from mimosa.policy.mixer import Mamba3Mixer


def mixer_of(name: str, dtype: torch.dtype) -> Mamba3Mixer:
    c = case("layer", name)
    config = Mamba3Config(
        vocab_size=16, d_model=c["d_model"], d_state=c["N"], headdim=c["P"], expand=c["H"] * c["P"] // c["d_model"],
        ngroups=c["G"], is_mimo=c["is_mimo"], mimo_rank=c["R"], rope_fraction=2 * c["S"] / c["N"],
        is_outproj_norm=c["outproj_norm"], a_activation=c["act"], a_floor=c["A_floor"],
    )  # fmt: skip
    mixer = Mamba3Mixer(config, None).to(dtype)
    tensors = load(name)
    mixer.load_state_dict({n.removeprefix("param."): t.to(dtype) for n, t in tensors.items() if n.startswith("param.")})
    return mixer


@needs_goldens
@pytest.mark.parametrize("name", names("layer_*"))
@pytest.mark.parametrize(("dtype", "out_bar", "grad_bar"), [(torch.float64, 1e-12, 1e-11), (torch.float32, 2e-5, 1e-4)])
def test_layer_forward_and_gradients(name, dtype, out_bar, grad_bar):
    mixer, gold = mixer_of(name, dtype), load(name)
    u = gold["u"].to(dtype).requires_grad_()
    out, _ = mixer(u, cu_seqlens=gold.get("cu_seqlens"))
    assert error(out, gold["out"]) < out_bar
    (out * gold["dout"].to(dtype)).sum().backward()
    for key, grad in [("g_u", u.grad), *((f"g_param.{n}", p.grad) for n, p in mixer.named_parameters())]:
        if gold[key].abs().max() < 1e-8:  # zero in exact arithmetic
            continue
        bar = grad_bar if gold[key].dtype == torch.float64 else max(grad_bar, 1e-6)
        assert error(grad, gold[key]) < bar, key


@needs_goldens
@pytest.mark.parametrize("name", [n for n in names("layer_*") if "step_out" in load(n)])
def test_layer_decodes_token_by_token(name):
    mixer, gold = mixer_of(name, torch.float64), load(name)
    u = gold["u"].double()
    state = mixer.empty_state(u.shape[0], u.device, torch.float64)
    with torch.no_grad():
        for t in range(u.shape[1]):
            out, state = mixer.step(u[:, t], state)
            assert error(out, gold["step_out"][:, t]) < 1e-12
            if f"cache_after_{t + 1}.ssm" in gold:
                assert error(state.h, gold[f"cache_after_{t + 1}.ssm"].double()) < 1e-6


def test_published_size_of_the_187m_model():
    with torch.device("meta"):
        model = Mamba3ForCausalLM(Mamba3Config(d_model=768, n_layer=12, d_intermediate=1500, vocab_size=128256))
    assert sum(p.numel() for p in model.parameters()) == 186_849_600


def random_model(**changes) -> Mamba3ForCausalLM:
    torch.manual_seed(0)
    return Mamba3ForCausalLM(tiny_config(**changes)).eval()


VARIANTS = [
    {}, {"is_mimo": False}, {"d_intermediate": 0}, {"is_outproj_norm": True, "rope_fraction": 1.0},
    {"tie_word_embeddings": False, "ngroups": 2},
]  # fmt: skip


@pytest.mark.parametrize("changes", VARIANTS, ids=["mimo", "siso", "no mlp", "norm, full rope", "untied, 2 groups"])
@torch.no_grad()
def test_step_is_forward(changes):
    model = random_model(**changes)
    ids = torch.randint(0, 17, (3, 37), generator=torch.Generator().manual_seed(1))
    state, logits = model.empty_state(3), []
    for t in range(37):
        out, state = model.step(ids[:, t], state)
        logits.append(out)
    whole = model(ids, return_state=True)
    assert error(torch.stack(logits, 1), whole.logits) < 2e-5
    assert error(state[1].h, whole.state[1].h) < 2e-5


@torch.no_grad()
def test_packed_is_unpacked_and_padding_is_packed_away():
    model = random_model()
    rows = [torch.randint(1, 17, (n,), generator=torch.Generator().manual_seed(n)) for n in (5, 1, 40)]
    bounds = torch.tensor([0, 5, 6, 46], dtype=torch.int32)
    packed = model(torch.cat(rows)[None], cu_seqlens=bounds).logits[0]
    alone = torch.cat([model(row[None]).logits[0] for row in rows])
    assert error(packed, alone) < 2e-5
    for side in ("left", "right"):
        padded, mask = torch.zeros(3, 40, dtype=torch.long), torch.zeros(3, 40, dtype=torch.long)
        for i, row in enumerate(rows):
            place = slice(40 - len(row), 40) if side == "left" else slice(0, len(row))
            padded[i, place], mask[i, place] = row, 1
        assert error(model(padded, attention_mask=mask).logits[mask.bool()], alone) < 2e-5


@torch.no_grad()
def test_logprobs_of_targets_are_those_of_the_logits():
    model = random_model()
    ids = torch.randint(0, 17, (2, 11), generator=torch.Generator().manual_seed(1))
    log_p = (model(ids).logits / 0.7).log_softmax(-1)
    out = model(ids, targets=ids.flip(0), temperature=0.7)
    torch.testing.assert_close(out.logprobs, log_p.gather(-1, ids.flip(0)[..., None])[..., 0], atol=1e-5, rtol=0)
    torch.testing.assert_close(out.entropy, -(log_p.exp() * log_p).sum(-1), atol=1e-5, rtol=0)


def test_a_bf16_policy_multiplies_what_the_broadcast_sends():
    model = random_model(compute_dtype="bf16")
    ids = torch.randint(0, 17, (1, 9), generator=torch.Generator().manual_seed(1))
    before = model(ids).logits
    for name, p in model.named_parameters():
        if p.ndim == 2 and "embedding" not in name:
            p.data = p.data.bfloat16().float()
    assert torch.equal(model(ids).logits, before)


def test_generate_of_transformers_with_and_without_left_padding():
    model = random_model()
    ids = torch.tensor([[3, 4, 5]])
    alone = model.generate(ids, max_new_tokens=6, do_sample=False)
    tokens = ids
    with torch.no_grad():
        for _ in range(6):
            tokens = torch.cat([tokens, model(tokens).logits[:, -1:].argmax(-1)], 1)
    assert alone.tolist() == tokens.tolist()
    padded = model.generate(
        torch.tensor([[0, 0, 3, 4, 5], [1, 2, 3, 4, 5]]), max_new_tokens=6, do_sample=False,
        attention_mask=torch.tensor([[0, 0, 1, 1, 1], [1, 1, 1, 1, 1]]),
    )  # fmt: skip
    assert padded[0, 2:].tolist() == alone[0].tolist()


def test_hugging_face_folder_round_trip(tmp_path):
    model = random_model()
    model.save_pretrained(tmp_path)
    assert [f.name for f in tmp_path.glob("*.safetensors")] == ["model.safetensors"]
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert isinstance(loaded, Mamba3ForCausalLM)
    assert loaded.lm_head.weight is loaded.backbone.embedding.weight
    ids = torch.arange(9)[None]
    assert torch.equal(loaded(ids).logits, model(ids).logits)


def test_a_configuration_without_the_activation_of_a_warns(tmp_path):
    tiny_config(a_activation="softplus").save_pretrained(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert AutoConfig.from_pretrained(tmp_path).a_activation == "softplus"
    content = json.loads((tmp_path / "config.json").read_text())
    del content["a_activation"]
    (tmp_path / "config.json").write_text(json.dumps(content))
    with pytest.warns(UserWarning, match="which activation of A"):
        assert AutoConfig.from_pretrained(tmp_path).a_activation == "heavy_tail"


@pytest.mark.parametrize(
    ("field", "value"),
    [("headdim", 48), ("ngroups", 3), ("rope_fraction", 0.25), ("a_activation", "relu"), ("n_layer", 0)],
)
def test_impossible_shapes_are_named(field, value):
    with pytest.raises(ValueError, match=f"Mamba3Config.{field}: got"):
        tiny_config(**{field: value})
