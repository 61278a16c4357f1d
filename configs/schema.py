"""The typed tree of settings: every key a run can set, its default and its meaning. Imports nothing heavy.

The order of the sections is the order of the flow. `loader.py` merges a preset, a file and the command line into a
`Config` and refuses what is not declared here.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass
class RunConfig:
    dir: str = ""  # run folder; empty: runs/<name>, numbered on when it is taken
    name: str = ""  # empty: the preset's name and the seed
    root: str = "runs"  # where unnamed run folders go
    keep_rollouts: bool = True  # write every completion with its verdict to rollouts/


@dataclass
class RayConfig:
    address: str = ""  # empty: start a local cluster; else the address of a running one, or "auto"
    cpus: int = 0  # logical CPUs of the local cluster; 0: as many as the actors ask for
    object_store_mb: int = 400  # of the local cluster
    log_to_driver: bool = False  # show what actors print


@dataclass
class ModelConfig:
    """A policy to load, or the shape of one to initialise at random."""

    path: str = (
        ""  # folder with a policy (Hugging Face or state-spaces format); empty: random weights of the shape below
    )
    a_activation: str = "heavy_tail"  # or "softplus": see Mamba3Config
    d_model: int = 64
    n_layer: int = 2
    d_intermediate: int = 128  # MLP width, rounded up to a multiple of 128; 0: no MLP
    d_state: int = 16
    headdim: int = 32
    expand: int = 2
    ngroups: int = 1
    mimo: bool = True
    mimo_rank: int = 2
    rope_fraction: float = 0.5
    is_outproj_norm: bool = False
    chunk_size: int = 0  # tokens; 0: 64 / rank
    dt_min: float = 1e-3  # range of the initial time step
    dt_max: float = 0.1
    dtype: str = (
        "fp32"  # arithmetic of the linear layers and type of the rollout's copy: fp32 or bf16; see policy/mamba3.py
    )
    head_dtype: str = (
        "fp32"  # operands of the head's product: fp32 or bf16; its sums and the logits are fp32 either way
    )
    kernels: str = "auto"  # auto (triton on CUDA for sizes that its tiles take, else reference), reference or triton


@dataclass
class TokenizerConfig:
    kind: str = "policy"  # policy: as saved beside model.path; chars; bytes; or a Hugging Face name or folder
    alphabet: str = ""  # characters of a chars tokenizer; empty: what the task needs
    symbols: list[str] = field(default_factory=list)  # strings that are one token of a chars tokenizer
    chat_template: str = ""  # Jinja; empty: the tokenizer's own, else messages joined by newlines


@dataclass
class SourceConfig:
    """Where rows come from: a generated task, files, or a data set on the hub."""

    task: str = ""  # arithmetic, modular_arithmetic, parity, countdown, digit_sum
    options: dict[str, Any] = field(default_factory=dict)  # of the task: digits, ops, cot, ...
    path: str = ""  # .jsonl, .json or .parquet: a file, a folder or a glob
    hub: str = ""  # name of a data set on the Hugging Face hub
    subset: str = ""  # of the hub data set
    split: str = "train"  # of the hub data set
    limit: int = 0  # at most so many rows; 0: all


@dataclass
class FieldsConfig:
    """Which column holds what."""

    prompt: str = "prompt"
    ground_truth: str = "ground_truth"
    response: str = "response"  # demonstrations, for sft; may be absent
    id: str = "id"  # may be absent: the row number is used
    verifier: str = "verifier"  # may be absent: reward.verifier is used; empty: also where a generated task names one
    template: str = "{prompt}"  # wraps a text prompt; {prompt} is the column's text
    ground_truth_after: str = ""  # keep what follows the last occurrence of this mark, e.g. "####"


@dataclass
class DataConfig:
    train: SourceConfig = field(default_factory=SourceConfig)
    eval: SourceConfig = field(default_factory=SourceConfig)  # without a source: held out from train
    fields: FieldsConfig = field(default_factory=FieldsConfig)
    eval_fraction: float = 0.1  # of the train source, by a hash of the row's key, when eval names no source
    eval_prompts: int = 512  # at most so many prompts per evaluation
    max_prompt_tokens: int = 1024
    overlong: str = "error"  # a longer prompt: error, or drop (counted)
    shuffle: bool = True


@dataclass
class RolloutConfig:
    actors: int = 2
    slots: int = 256  # sequences decoded at once per actor; 0: as many as memory_share of the free memory holds
    memory_share: float = (
        0.8  # of the memory that is free on the actors' device, for their slots when their number is 0
    )
    block: int = 0  # tokens of a sequence between two looks of the host; 0: 32 on a GPU, 6 on a CPU
    prefill_piece: int = 2048  # prompt tokens prefilled at most between two blocks, rounded up to whole chunks
    decode: str = "auto"  # auto, recurrent (states read and written at every token) or replay (written once per chunk)
    graphs: bool = True  # on a GPU: blocks in CUDA graphs
    threads: int = 1  # CPU threads per actor
    gpus: float = 0.0  # per actor; 0 with device cuda: 1
    temperature: float = 1.0
    top_k: int = 0  # draw from the k likeliest tokens; 0: all. This and the next two are for eval and generate alone
    top_p: float = 1.0  # draw from the fewest likeliest tokens that hold this share of the probability
    min_p: float = 0.0  # draw from tokens at least this fraction as likely as the likeliest
    stop: list[str] = field(default_factory=list)  # texts that end a completion, besides the end token
    max_tokens: int = 64  # completion tokens at most
    deadline: float = 0.0  # seconds a completion may take from its admission to a slot; 0: no bound
    on_swap: str = "keep"  # states of sequences under way, under new weights: keep, or recompute from the tokens
    swap_sample: int = 4  # sequences on which the two are compared at a swap, which reads their tokens again; 0: none
    partial: bool = False  # end a step when its groups are there; unfinished ones go on first in the next step
    oversample: float = 0.0  # with partial: share of groups begun beyond the step's, so that none waits for the longest
    timeout: float = 600.0  # seconds a generation call may take


@dataclass
class VerifierConfig:
    actors: int = 2
    timeout: float = 5.0  # seconds per judgement that needs a process or an endpoint; a group has as many times that
    batch: int = 64  # completions per call, about: the samples of a prompt stay together
    retries: int = 2  # of a verifier that failed, before the completion is masked
    alarm_share: float = 0.05  # a larger share of failed judgements in a step is warned of
    resources: dict[str, float] = field(
        default_factory=dict
    )  # of Ray, that every actor takes: {judges: 1} keeps to nodes with it
    alarm_window: int = 1000  # last judgements of a verifier; one score for more than 99 % of them is warned of


@dataclass
class RewardConfig:
    verifier: str = "math"  # for rows that name none: a name, file.py:function, package.module:function or http://...
    options: dict[str, Any] = field(default_factory=dict)  # of the verifier; of a function: rewards/function.py
    truncated: str = "zero"  # a completion without an end token: zero (scores 0), score (judge it), mask (no loss)


@dataclass
class OptimizerConfig:
    lr: float = 1e-6
    schedule: str = "constant"  # or linear, to min_lr_ratio at the last step
    min_lr_ratio: float = 0.1
    warmup: int = 0  # optimizer updates
    betas: list[float] = field(default_factory=lambda: [0.9, 0.99])
    eps: float = 1e-8
    weight_decay: float = 0.0  # never on dt_bias, D, norms and biases
    grad_clip: float = 1.0


@dataclass
class LossConfig:
    clip_low: float = 0.2  # the ratio's lower bound is 1 - clip_low
    clip_high: float = 0.28  # the upper one is 1 + clip_high
    aggregate: str = "token"  # mean over the update's tokens; or sequence: mean of per-sequence means
    advantage_std: bool = False  # divide by the group's standard deviation
    entropy_coef: float = 0.0


@dataclass
class LearnerConfig:
    actors: int = 1  # data-parallel ranks
    threads: int = 2  # CPU threads per rank
    gpus: float = 0.0  # per rank; 0 with device cuda: 1
    zero_stage: int = 2  # 1, 2 or 3
    token_budget: int = 4096  # packed tokens per micro-batch and rank
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    max_nonfinite: int = 3  # consecutive updates dropped for a non-finite loss or gradient before the run stops
    timeout: float = 600.0  # seconds a learner call may take


@dataclass
class TrainConfig:
    steps: int = 100
    mode: str = "sync"  # or one_step_off: the next step's rollouts are made while this step is learned
    prompts: int = 64  # per step
    group: int = 8  # samples per prompt
    updates: int = 4  # optimizer updates per step, over disjoint parts of its samples
    eval_every: int = 0  # steps; 0: only before the first and after the last
    mismatch_sequences: int = 64  # on which rollout and learner logprobs are compared each step; 0: none
    max_restarts: int = 3  # of a dead learner, from the last checkpoint; of each rollout or verifier actor


@dataclass
class SftConfig:
    steps: int = 0  # at most; 0: no warm start in `train`
    batch: int = 128  # demonstrations per update
    optimizer: OptimizerConfig = field(default_factory=lambda: OptimizerConfig(lr=4e-3, warmup=20, betas=[0.9, 0.95]))
    probe_every: int = 10  # steps between samples of train prompts; 0: never
    probe_prompts: int = 256
    stop_at: float = 0.0  # end when a probe's pass@1 reaches this; 0: run all steps


@dataclass
class EvalConfig:
    samples: int = 1  # per prompt; pass@k for k = 1, 2, 4, ... up to this
    temperature: float = 1.0


@dataclass
class CheckpointConfig:
    every: int = 50  # steps, or updates of the warm start; 0: only at the end
    keep: int = 2


@dataclass
class LogConfig:
    wandb: str = "off"  # off, offline or online
    project: str = "mimosa"
    progress: bool = True


@dataclass
class Config:
    seed: int = 0
    device: str = "cpu"  # or cuda
    resume: bool = False  # go on from the run folder's last checkpoint
    run: RunConfig = field(default_factory=RunConfig)
    ray: RayConfig = field(default_factory=RayConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    tokenizer: TokenizerConfig = field(default_factory=TokenizerConfig)
    data: DataConfig = field(default_factory=DataConfig)
    rollout: RolloutConfig = field(default_factory=RolloutConfig)
    verifier: VerifierConfig = field(default_factory=VerifierConfig)
    reward: RewardConfig = field(default_factory=RewardConfig)
    learner: LearnerConfig = field(default_factory=LearnerConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    sft: SftConfig = field(default_factory=SftConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    log: LogConfig = field(default_factory=LogConfig)
    provenance: dict[str, Any] = field(default_factory=dict)  # written by a run: its command, git commit, versions
