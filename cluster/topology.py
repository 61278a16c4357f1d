"""Starting and leaving Ray, and what each kind of actor asks of the cluster."""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

# Read by Ray when it is imported, and inherited by a local cluster: no token, no telemetry, no idle worker processes.
LOCAL_ENVIRONMENT = {
    "RAY_AUTH_MODE": "disabled",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_enable_worker_prestart": "0",
    "RAY_prestart_worker_first_driver": "0",
    "RAY_enable_metrics_collection": "0",
    "RAY_enable_open_telemetry": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_DEDUP_LOGS": "0",
    # On a busy machine threads that spin while they wait for each other cost ten times what waking them does.
    "OMP_WAIT_POLICY": "PASSIVE",
    # Tensors of a small policy come and go by the thousand; handing their pages back each time costs a quarter of a step.
    "MALLOC_MMAP_THRESHOLD_": str(32 << 20),
    "MALLOC_TRIM_THRESHOLD_": str(1 << 30),
}
for _name, _value in LOCAL_ENVIRONMENT.items():
    os.environ.setdefault(_name, _value)

import ray  # noqa: E402

from ..configs.schema import Config  # noqa: E402


@contextmanager
def cluster(config: Config) -> Iterator[None]:
    """A connection to the configured cluster, or a local one that ends with the block."""
    if ray.is_initialized():
        yield
        return
    common: dict[str, Any] = {"log_to_driver": config.ray.log_to_driver, "logging_level": logging.ERROR}
    if config.ray.address:
        ray.init(address=config.ray.address, **common)
    else:
        ray.init(
            address="local", num_cpus=config.ray.cpus or logical_cpus(config), include_dashboard=False,
            resources={name: config.verifier.actors * amount for name, amount in config.verifier.resources.items()},
            object_store_memory=config.ray.object_store_mb << 20, _temp_dir=temporary_folder(), **common,
        )  # fmt: skip
    try:
        yield
    finally:
        ray.shutdown()


def temporary_folder() -> str:
    """Where a local cluster keeps its sockets; short, since a socket's path has 107 bytes at most."""
    return os.path.join(tempfile.gettempdir(), f"mimosa-ray-{os.getuid()}")


def logical_cpus(config: Config) -> int:
    """One logical CPU an actor, whatever the machine has: they take turns."""
    return config.rollout.actors + config.verifier.actors + config.learner.actors + 1


def actor_options(config: Config, kind: str) -> dict[str, Any]:
    """Resources of a rollout, verifier or learner actor. The pipeline replaces the dead itself, so Ray restarts none."""
    gpus = 0.0
    if config.device == "cuda" and kind != "verifier":
        gpus = (config.rollout.gpus if kind == "rollout" else config.learner.gpus) or 1.0
    options = {"num_cpus": 1, "num_gpus": gpus, "max_restarts": 0, "max_task_retries": 0}
    return options | ({"resources": dict(config.verifier.resources)} if kind == "verifier" else {})
