"""Presets, files and the command line merge into typed settings; what is not understood is refused in one line."""

from __future__ import annotations

import subprocess
import sys

import pytest

from mimosa.configs.keys import key_types, nearest
from mimosa.configs.loader import ConfigError, known_keys, load, preset_names, require_data, to_yaml
from mimosa.configs.schema import Config


def refusal(preset, *overrides):
    with pytest.raises(ConfigError) as caught:
        load(preset, list(overrides))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_nothing_given_is_the_defaults():
    assert load(None, []) == Config()


@pytest.mark.parametrize("name", preset_names())
def test_every_preset_loads_has_one_source_and_survives_yaml(name, tmp_path):
    config = load(name, [])
    require_data(config)
    (tmp_path / "config.yaml").write_text(to_yaml(config))
    assert load(str(tmp_path / "config.yaml"), []) == config


def test_quickstart_is_the_tried_recipe():
    config = load("quickstart", [])
    assert (config.data.train.task, config.data.train.options["digits"]) == ("arithmetic", 2)
    assert (config.model.mimo, config.model.mimo_rank, config.model.dt_min, config.model.dt_max) == (True, 2, 0.01, 0.5)
    assert (config.sft.stop_at, config.sft.optimizer.lr, config.sft.optimizer.betas) == (0.25, 4e-3, [0.9, 0.95])
    assert (config.train.steps, config.train.prompts, config.train.group, config.train.updates) == (200, 64, 8, 4)
    assert config.learner.optimizer.lr == 3e-4 and config.learner.loss.advantage_std


def test_smoke_builds_on_quickstart_but_not_on_its_task():
    config = load("smoke", [])
    assert config.data.train.options == {"digits": 3, "modulus": 7}  # without ops, which were arithmetic's
    assert config.model.dt_max == 0.5
    assert config.learner.optimizer.schedule == "constant"


def test_command_line_beats_file_beats_base(tmp_path):
    (tmp_path / "mine.yaml").write_text("base: quickstart\ntrain: {steps: 7, group: 4}\nrollout.slots: 32\n")
    config = load(str(tmp_path / "mine.yaml"), ["train.group=16", "train.group=2"])
    assert (config.train.steps, config.train.group, config.train.prompts, config.rollout.slots) == (7, 2, 64, 32)


def test_base_may_be_a_file_beside_the_file(tmp_path):
    (tmp_path / "low.yaml").write_text("seed: 5\n")
    (tmp_path / "high.yaml").write_text("base: low.yaml\n")
    assert load(str(tmp_path / "high.yaml"), []).seed == 5


@pytest.mark.parametrize(
    ("override", "value"),
    [
        ("run.name=007", "007"),
        ("run.name=1e-3", "1e-3"),
        ("run.name=", ""),
        ("run.name=a=b", "a=b"),
        ("run.name=${seed}", "${seed}"),
        ("run.name='two words'", "two words"),
        ("log.wandb=off", "off"),
        ("data.fields.template=Solve ${prompt}$ in \\boxed{}: {prompt}", "Solve ${prompt}$ in \\boxed{}: {prompt}"),
        ("data.fields.template=\\\\${x} {prompt}", "\\\\${x} {prompt}"),
        ("learner.optimizer.lr=1e-6", 1e-6),
        ("rollout.temperature=1", 1.0),
        ("resume=on", True),
        ("resume=1", True),
        ("learner.optimizer.betas=[0.5, 1e-3]", [0.5, 1e-3]),
        ("tokenizer.symbols=[off, 12, '}']", ["off", "12", "}"]),
        ("reward.options={strict: {a: 1}}", {"strict": {"a": 1}}),
        ("reward.options.deep.er=${x}", {"deep": {"er": "${x}"}}),
    ],
)
def test_values_mean_what_their_type_says(override, value, tmp_path):
    def read(config):
        for part in override.partition("=")[0].split(".options")[0].split("."):
            config = getattr(config, part)
        return config.options if ".options" in override else config

    config = load(None, [override])
    assert read(config) == value
    assert type(read(config)) is type(value)
    (tmp_path / "again.yaml").write_text(to_yaml(config))
    assert load(str(tmp_path / "again.yaml"), []) == config


def test_options_of_a_task_are_merged_entry_by_entry():
    config = load("quickstart", ["data.train.options.digits=3", "data.train.options.cot=false"])
    assert config.data.train.options == {"digits": 3, "ops": ["add"], "cot": False}


def test_a_source_replaces_one_of_another_kind():
    source = load("gsm8k", ["data.train.path=rows.jsonl"]).data.train
    assert (source.hub, source.subset, source.path, source.task) == ("", "", "rows.jsonl", "")
    source = load("quickstart", ["data.train.task=parity"]).data.train
    assert (source.task, source.options) == ("parity", {})
    source = load("quickstart", ["data.train.task=arithmetic", "data.train.options.digits=3"]).data.train
    assert source.options == {"digits": 3, "ops": ["add"], "cot": True}
    config = load("gsm8k", ["data.eval.path=test.jsonl", "data.train.limit=9"])
    assert (config.data.train.hub, config.data.train.limit) == ("openai/gsm8k", 9)


def test_two_sources_in_one_place_are_refused():
    message = refusal("gsm8k", "data.train.path=a", "data.train.task=parity")
    assert "data.train.task and data.train.path" in message and "command line" in message


@pytest.mark.parametrize(
    ("overrides", "parts"),
    [
        (["train.step=3"], ["'train.step'", "command line", "'train.steps'"]),
        (["steps=3"], ["'steps'", "'train.steps'"]),
        (["modle.path=x"], ["'model.path'"]),
        (["train.steps.x=1"], ["'train.steps'"]),
        (["base=quickstart"], ["unknown key 'base'"]),
        (["model=3"], ["model", "wanted a section"]),
        (["train.steps"], ["'train.steps'", "wanted key=value"]),
        (["=3"], ["wanted key=value"]),
        (["train.steps=many"], ["train.steps", "'many'", "command line", "an integer"]),
        (["train.steps=2.5"], ["2.5", "an integer"]),
        (["train.steps=true"], ["True", "an integer"]),
        (["train.steps="], ["got nothing", "an integer"]),
        (["model.mimo=2"], ["got 2", "true or false"]),
        (["learner.optimizer.betas=0.9"], ["0.9", "a list of numbers"]),
        (["learner.optimizer.betas=[0.9"], ["learner.optimizer.betas", "not YAML"]),
        (["data.train.options=3"], ["data.train.options", "a mapping"]),
        (["data.train.options.day=2024-01-01"], ["data.train.options", "a mapping"]),
        (["run.name=???"], ["run.name", "???"]),
    ],
    ids=lambda value: value[0] if isinstance(value, list) and "=" in value[0] else "",
)
def test_a_bad_word_on_the_command_line_is_named(overrides, parts):
    message = refusal(None, *overrides)
    for part in parts:
        assert part in message


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("model: {d_modell: 3}", ["'model.d_modell'", "'model.d_model'", "mine.yaml"]),
        ("train: {steps: [1]}", ["train.steps", "[1]", "an integer"]),
        ("train: {steps: {a: 1}}", ["train.steps", "{'a': 1}", "an integer"]),
        ("train: 3", ["train", "wanted a section"]),
        ("- a", ["mine.yaml", "wanted a mapping"]),
        ("train:\n  steps: [1\nx: }", ["mine.yaml", "line 3", "not YAML"]),
        ("seed: 1\ntrain: {}\nseed: 2", ["seed", "set twice", "line 3"]),
        ("data: {train: {task: parity, hub: x}}", ["data.train.task and data.train.hub", "mine.yaml"]),
        ("base: quikstart", ["'quikstart'", "'quickstart'"]),
        ("base: mine.yaml", ["loop", "mine.yaml -> mine.yaml"]),
    ],
)
def test_a_bad_file_is_named(text, parts, tmp_path):
    (tmp_path / "mine.yaml").write_text(text)
    message = refusal(str(tmp_path / "mine.yaml"))
    for part in parts:
        assert part in message


def test_an_empty_file_and_empty_sections_set_nothing(tmp_path):
    (tmp_path / "mine.yaml").write_text("# nothing\n")
    assert load(str(tmp_path / "mine.yaml"), []) == Config()
    (tmp_path / "mine.yaml").write_text("model:\ntrain: {}\nmodel.path: null\n")
    assert load(str(tmp_path / "mine.yaml"), []) == Config()


def test_unknown_presets_and_missing_files():
    message = refusal("gsm8")
    assert "'gsm8k'" in message and all(name in message for name in preset_names())
    assert "no such file" in refusal("nowhere/gsm8k.yaml")


def test_known_keys_reach_every_leaf():
    assert len(known_keys()) == len(set(known_keys())) > 100
    assert key_types()["learner.optimizer.betas"] == list[float]
    assert {"seed", "data.train.options", "sft.optimizer.lr", "ray.address"} <= set(known_keys())


def test_nearest_counts_the_last_part_alone():
    assert nearest("slots", known_keys()) == "rollout.slots"
    assert nearest("rolout.slot", known_keys()) == "rollout.slots"


def test_loading_settings_imports_no_torch():
    code = "import sys, mimosa.configs.loader as l; l.load('smoke', []); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=60, check=False).returncode == 0
