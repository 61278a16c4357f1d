"""What actors ask of a cluster, and where they come to stand."""

import subprocess
import sys
import textwrap

from mimosa.cluster.topology import actor_options
from mimosa.configs.loader import load

SCRIPT = """
    import ray
    from mimosa.cluster.topology import actor_options, cluster
    from mimosa.cluster.verifier_actor import VerifierActor
    from mimosa.configs.loader import load

    config = load("smoke", ["verifier.actors=2", "verifier.resources.judges=0.5", "ray.object_store_mb=80"])
    with cluster(config):
        assert ray.cluster_resources()["judges"] == 1.0
        made = ray.remote(VerifierActor).options(**actor_options(config, "verifier"))
        actors = [made.remote(config) for _ in range(2)]
        assert len(set(ray.get([actor.pid.remote() for actor in actors], timeout=60))) == 2
        assert "judges" not in {name for name, left in ray.available_resources().items() if left}
        print("both stand")
"""


def test_verifiers_alone_take_their_resources():
    config = load("smoke", ["verifier.resources={judges: 1, rack: 0.25}"])
    assert actor_options(config, "verifier")["resources"] == {"judges": 1.0, "rack": 0.25}
    assert "resources" not in actor_options(config, "rollout") and "resources" not in actor_options(config, "learner")
    assert actor_options(load("smoke", []), "verifier")["resources"] == {}


def test_a_local_cluster_has_what_its_verifiers_take():
    """In a process of its own: this one's cluster is there for the other tests."""
    command = [sys.executable, "-c", textwrap.dedent(SCRIPT)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=180)
    assert done.stdout.strip().endswith("both stand"), done.stderr[-2000:]
