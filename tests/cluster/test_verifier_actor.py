"""A verifier worker as an actor: what it needs is there before it judges, or it does not come up."""

import ctypes
import os
import struct
import sys

import numpy as np
import pytest
import ray

from mimosa.cluster.pool import ActorPool, PoolExhausted
from mimosa.cluster.verifier_actor import VerifierActor
from mimosa.configs.loader import load
from mimosa.records import Completion, Prompt, Request, Task
from mimosa.rewards import seccomp

ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # the actor below is defined in a test file
pytestmark = pytest.mark.usefixtures("ray_cluster")
TESTS = {"kind": "assert", "entry_point": "f", "code": "def check(candidate):\n    assert candidate(2) == 4\n"}


NO_LANDLOCK = ((0x20, 0, 0, 0), (0x15, 0, 1, 444), (0x06, 0, 0, 0x00050000 | 38), (0x06, 0, 0, 0x7FFF0000))


class OnABareMachine(VerifierActor):
    def __init__(self, config, named):
        os.environ["PATH"] = "/nowhere"
        super().__init__(config, named)


class OnAnOldKernel(OnABareMachine):
    """Landlock's first system call answers ENOSYS, for this process and the judge that it starts."""

    def __init__(self, config, named):
        ctypes.CDLL(None).prctl(38, 1, 0, 0, 0)  # no_new_privs, which the filter needs
        seccomp.install(b"".join(struct.pack("=HBBI", *one) for one in NO_LANDLOCK))
        super().__init__(config, named)


def pool_of(config, actor=VerifierActor, named=()):
    made = ray.remote(actor).options(num_cpus=1)
    return ActorPool("verifier", lambda: made.remote(config, named), 1, restarts=2, timeout=120)


def item(text):
    prompt = Prompt("p", "", "", "", fields={"tests": TESTS})
    nothing = np.zeros(0, np.int32)
    task = Task(prompt, Request("p@0", nothing, 1))
    return task, Completion("p@0", 0, nothing, nothing.astype(np.float32), nothing, "stop", text)


def test_code_without_a_sandbox_ends_the_run_with_the_reason():
    config = load("smoke", ["reward.verifier=code", "reward.options.tier=bubblewrap"])
    pool = pool_of(config, OnABareMachine)
    with pytest.raises(
        PoolExhausted, match=r"could not start: .*reward.verifier=code refuses to start here: .*bwrap is not installed"
    ):
        list(pool.map("score", [([item("def f(x): return 2 * x")],)]))


def test_code_that_rows_alone_name_ends_the_run_without_a_sandbox_too():
    pool = pool_of(load("smoke", ["reward.verifier=exact"]), OnAnOldKernel, ("code", "exact"))
    with pytest.raises(
        PoolExhausted, match=r"could not start: .*verifier code, which rows name, refuses to start here: .*Landlock"
    ):
        list(pool.map("score", [([item("def f(x): return 2 * x")],)]))


def test_the_override_is_in_every_reason():
    pool = pool_of(load("smoke", ["reward.verifier=code", "reward.options.unsafe=true"]))
    ((_, verdicts),) = pool.map("score", [([item("def f(x): return 2 * x"), item("def f(x): return x")],)])
    assert [verdict.score for verdict in verdicts] == [1.0, 0.0]
    assert all(verdict.reason.startswith("unsafe: ") for verdict in verdicts)
