"""What travels between the rooms of the house.

Every object that crosses an actor border is one of these frozen dataclasses; no dict does. The order below is the order of
the flow: Prompt -> Request -> Completion -> Verdict -> Group -> Update -> LearnReport -> PolicyVersion.
This module imports numpy alone, so that a verifier worker starts without torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

FinishReason = Literal["stop", "length", "deadline"]
VerdictStatus = Literal["scored", "verifier_failed", "skipped"]


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a chat prompt."""

    role: str  # "system", "user" or "assistant"
    content: str


@dataclass(frozen=True, slots=True)
class Prompt:
    """One row of a data source.

    >>> Prompt(id="add2c:81+52", prompt="81+52=", verifier="math", ground_truth="133", response="0313\\\\boxed{133}")
    """

    id: str  # unique within its source and the same in every run
    prompt: str | tuple[Message, ...]  # plain text, or a chat for the tokenizer's template
    verifier: str  # name in the verifier registry
    ground_truth: str  # what the verifier compares with; its form is the verifier's business
    response: str | None = None  # a demonstration, for supervised warm starts
    # The row's other columns, handed to the verifier unchanged; and "ground_truth" where the row has it as no text.
    fields: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Sampling:
    """How tokens are drawn; the same for every request of a call."""

    max_tokens: int  # completion tokens at most, the end-of-sequence token included
    temperature: float = 1.0  # 0 is greedy
    seed: int = 0  # with a request's uid, a sample number and a position it fixes the noise of one token
    stop_token_ids: tuple[int, ...] = ()  # a sampled one ends the completion and is its last token
    stop: tuple[str, ...] = ()  # texts that end a completion; see Completion for what it holds then
    top_k: int = 0  # draw from the k likeliest tokens; 0: all. The logprobs stay those of the whole softmax, as with the next two
    top_p: float = 1.0  # draw from the fewest likeliest tokens that hold this share of the probability
    min_p: float = 0.0  # draw from tokens at least this fraction as likely as the likeliest
    deadline: float = 0.0  # seconds a sequence may take from its admission to a slot; 0: no bound

    @property
    def whole_softmax(self) -> bool:
        """Whether tokens are drawn from the distribution that the logprobs are of, as training needs it."""
        return not self.top_k and self.top_p == 1.0 and not self.min_p


@dataclass(frozen=True, slots=True)
class Request:
    """One prompt to be completed `samples` times.

    >>> Request(uid="add2c:81+52@0", token_ids=np.array([10, 3, 13], np.int32), samples=8)
    """

    uid: str  # prompt id and the round in which it was drawn
    token_ids: np.ndarray  # int32 [prompt tokens]
    samples: int  # completions wanted, numbered 0..samples-1


@dataclass(frozen=True, slots=True)
class Task:
    """A prompt drawn for one round: the row, and the request made of it."""

    prompt: Prompt
    request: Request


@dataclass(frozen=True, slots=True)
class Completion:
    """One sampled continuation of a prompt. Arrays run over its L tokens.

    Ended by a stop text, it holds all tokens up to and with the one that completed that text, with their logprobs; `text` ends
    before the stop text, as users of other engines expect.
    """

    uid: str  # of the request
    sample: int  # 0..samples-1
    token_ids: np.ndarray  # int32 [L], the end-of-sequence token included when it was sampled
    logprobs: np.ndarray  # float32 [L], natural log, of the sampled token at the sampling temperature
    policy_version: np.ndarray  # int32 [L], the weights that produced each token
    finish_reason: (
        FinishReason  # "stop": an end token or a stop text came; "length": max_tokens did; "deadline": the time was up
    )
    text: str  # decoded, without special tokens


@dataclass(frozen=True, slots=True)
class ParkedSequence:
    """A sample under way, taken out of an engine: any engine with the same weights goes on with it as if nothing had been.

    Its generator position is the number of its tokens. Arrays run over those.
    """

    request: Request
    sample: int
    sampling: Sampling
    token_ids: np.ndarray  # int32 [L], L >= 0
    logprobs: np.ndarray  # float32 [L]
    policy_version: np.ndarray  # int32 [L]
    seconds: float  # spent in slots so far
    state: Mapping[str, np.ndarray] | None  # of its slot, bit for bit; None: to be made from the tokens
    bfloat16: frozenset[str] = frozenset()  # parts of the state that travel as int16


@dataclass(frozen=True, slots=True)
class RolloutStats:
    """What an engine has done since it was made. All fields add up over engines and take differences over time."""

    prompt_tokens: int = 0  # of the requests begun; a prompt counts once, however many samples it has
    prefilled_tokens: int = 0  # that went through prefill, those of parked sequences and of weight swaps too
    completion_tokens: int = 0  # kept in completions or in sequences under way
    decoded_rows: int = 0  # rows of all decode steps
    idle_rows: int = 0  # of those, rows whose token was not kept: ended in the block, cut by a stop text, or fillers
    slot_steps: int = 0  # slots times decode steps: decoded_rows - idle_rows over it is the share of slots in use
    blocks: int = 0  # host synchronisations of the decode loop
    completions: int = 0
    parked: int = 0
    resumed: int = 0
    prefill_seconds: float = 0.0  # of the host; on a GPU what is not waited for falls into decode_seconds
    decode_seconds: float = 0.0
    swaps: int = 0
    swap_seconds: float = 0.0
    swap_kl: float = 0.0  # nats, sum over swap_sequences of KL(recomputed state || kept state) at the next token
    swap_sequences: int = 0  # sequences that this was measured on


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a verifier says of one completion. A failed verifier is not a wrong answer: it carries no score.

    >>> Verdict(status="scored", score=1.0, reason="equal as text", seconds=2e-5)
    """

    status: VerdictStatus
    score: float | None  # 0..1 when scored, else None
    reason: str  # one line
    seconds: float = 0.0  # of judging, queueing not counted
    components: Mapping[str, float] = field(default_factory=dict)  # parts of a rubric, by name


@dataclass(frozen=True, slots=True)
class Group:
    """All samples of one prompt with their verdicts; what an advantage is computed over."""

    prompt: Prompt
    request: Request
    completions: tuple[Completion, ...]
    verdicts: tuple[Verdict, ...]  # one a completion, in the same order


@dataclass(frozen=True, slots=True)
class Sample:
    """One training sequence before packing: prompt and completion with what the loss needs of it."""

    uid: str
    sample: int
    token_ids: np.ndarray  # int32 [prompt + completion]
    prompt_tokens: int  # the first prompt_tokens carry no loss
    logprobs: np.ndarray  # float32 [completion], the sampler's; zeros in supervised training
    advantage: float  # the same for every token; 1 in supervised training


@dataclass(frozen=True, slots=True)
class MicroBatch:
    """Sequences packed end to end for one forward pass. T tokens, n sequences.

    Row t predicts `targets[t]`, the next token of its own sequence; rows without a prediction to learn from have mask 0.
    """

    input_ids: np.ndarray  # int32 [T]
    targets: np.ndarray  # int32 [T]
    mask: np.ndarray  # float32 [T], 1 where the target is a completion token
    logprobs: np.ndarray  # float32 [T], the sampler's logprob of the target
    advantages: np.ndarray  # float32 [T]
    cu_seqlens: np.ndarray  # int32 [n + 1], where sequences start; the last entry is T
    uids: tuple[str, ...]  # names of the n sequences, "uid/sample", for error messages


@dataclass(frozen=True, slots=True)
class Update:
    """One optimizer update: the same number of micro-batches for every learner rank."""

    ranks: tuple[tuple[MicroBatch, ...], ...]  # [rank][micro-batch]
    tokens: int  # loss tokens over all ranks: the denominator of the token mean
    sequences: int  # over all ranks


@dataclass(frozen=True, slots=True)
class LearnReport:
    """What one rank says after the updates of one step."""

    updates: int  # optimizer updates that were applied
    skipped: int  # updates dropped for a non-finite loss or gradient
    culprits: tuple[str, ...]  # names of the sequences in the dropped updates' offending micro-batches
    metrics: Mapping[str, float]  # mean over the updates: loss, entropy, grad_norm, clip shares, lr


@dataclass(frozen=True, slots=True)
class Mismatch:
    """How far the learner's logprobs are from the rollout's, both with the weights that sampled."""

    kl: float  # nats per token, an estimate of KL(rollout || learner)
    largest: float  # largest |difference| of a token's logprob
    entropy: float  # nats per token, of the learner on these tokens
    tokens: int


@dataclass(frozen=True, slots=True)
class PolicyVersion:
    """Weights as the learner sends them out: cast to the rollout's dtypes, named as in the state dict."""

    number: int
    checksum: str  # of all tensors after the cast, see policy/weights.py
    tensors: Mapping[str, np.ndarray]  # bfloat16 travels as int16
    bfloat16: frozenset[str]  # which of them are bfloat16
