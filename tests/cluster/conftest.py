"""One local Ray for all tests of this folder."""

import pytest

from mimosa.cluster.topology import cluster
from mimosa.configs.schema import Config, RayConfig


@pytest.fixture(scope="session")
def ray_cluster():
    with cluster(Config(ray=RayConfig(cpus=16))):
        yield
