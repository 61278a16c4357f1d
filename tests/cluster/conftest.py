"""One local Ray for all tests of this folder, and one warm start that runs begin with."""

import pytest
from runs import WARM_START, tiny_run

from mimosa.cluster.commands import sft
from mimosa.cluster.topology import cluster
from mimosa.configs.schema import Config, RayConfig


@pytest.fixture(scope="session")
def ray_cluster():
    with cluster(Config(ray=RayConfig(cpus=16))):
        yield


@pytest.fixture(scope="session")
def warm_run(ray_cluster, tmp_path_factory):
    """The run folder of an undisturbed supervised run, whose policy is right now and then."""
    folder = tmp_path_factory.mktemp("runs") / "warm"
    assert sft(tiny_run(folder, *WARM_START), "warm") == 0
    return folder


@pytest.fixture(scope="session")
def warm(warm_run):
    """Settings that start from that policy, so that there is something to learn from."""
    return [f"model.path={warm_run}/policy", "tokenizer.kind=policy"]
