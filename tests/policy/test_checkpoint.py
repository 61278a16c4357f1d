import json

import pytest
import torch
from builders import tiny_config
from safetensors.torch import load_file, save_file

from mimosa.policy.checkpoint import write_state_spaces
from mimosa.policy.mamba3 import Mamba3ForCausalLM


@pytest.fixture
def model() -> Mamba3ForCausalLM:
    torch.manual_seed(3)
    return Mamba3ForCausalLM(tiny_config(d_intermediate=100, a_activation="softplus"))


def test_state_spaces_round_trip(model, tmp_path):
    write_state_spaces(model, str(tmp_path))
    loaded = Mamba3ForCausalLM.from_pretrained(tmp_path)
    assert loaded.config.a_activation == "softplus"
    assert loaded.config.tile_tokens == model.config.tile_tokens
    ids = torch.arange(13)[None]
    assert torch.equal(loaded(ids).logits, model(ids).logits)


def test_state_spaces_names_and_fields(model, tmp_path):
    write_state_spaces(model, str(tmp_path))
    tensors = torch.load(tmp_path / "pytorch_model.bin", weights_only=True)
    config = json.loads((tmp_path / "config.json").read_text())
    assert {"backbone.embedding.weight", "backbone.layers.1.mixer.in_proj.weight", "backbone.layers.0.mixer.B_norm.weight",
            "backbone.layers.0.mlp.fc1.weight", "backbone.norm_f.weight", "lm_head.weight"} <= tensors.keys()  # fmt: skip
    assert tensors["backbone.layers.0.mlp.fc1.weight"].shape == (2 * 128, 64)
    assert tensors["backbone.layers.0.mixer.in_proj.weight"].shape == (2 * 128 + 2 * 16 * 2 + 3 * 4 + 4, 64)
    assert config["ssm_cfg"]["layer"] == "Mamba3"
    assert config["d_intermediate"] == 100
    assert "a_activation" not in json.dumps(config)


def test_a_foreign_checkpoint_warns_of_the_activation_it_does_not_name(model, tmp_path):
    write_state_spaces(model, str(tmp_path))
    (tmp_path / "mimosa.json").unlink()
    with pytest.warns(UserWarning, match="which activation of A"):
        assert Mamba3ForCausalLM.from_pretrained(tmp_path).config.a_activation == "heavy_tail"


def test_a_tensor_of_another_shape_is_named(model, tmp_path):
    model.save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    tensors["backbone.layers.1.mixer.D"] = torch.zeros(5)
    save_file(tensors, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match=r"tensor backbone.layers.1.mixer.D has shape \(5,\), wanted \(4,\)"):
        Mamba3ForCausalLM.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c["ssm_cfg"].update(layer="Mamba2"), "ssm_cfg.layer: got 'Mamba2'"),
        (lambda c: c.update(attn_layer_idx=[3]), "attn_layer_idx: got a hybrid"),
    ],
    ids=["other layer", "hybrid"],
)
def test_models_of_another_kind_are_refused(model, tmp_path, change, message):
    write_state_spaces(model, str(tmp_path))
    config = json.loads((tmp_path / "config.json").read_text())
    change(config)
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=message):
        Mamba3ForCausalLM.from_pretrained(tmp_path)
