"""The learners' process group and the DeepSpeed engine inside it; the only place that knows DeepSpeed's switches."""

from __future__ import annotations

import logging
import os
import socket
import warnings
from datetime import timedelta
from typing import Any

import torch

from ..configs.schema import LearnerConfig, OptimizerConfig


def free_address() -> tuple[str, int]:
    """A host address and a port that is free now, for rank 0 to listen on."""
    with socket.socket() as probe:
        probe.bind(("", 0))
        return socket.gethostbyname(socket.gethostname()), probe.getsockname()[1]


def join_group(rank: int, world: int, address: str, port: int, device: str, timeout: float) -> None:
    """Join the process group of all learner ranks: nccl on cuda, gloo on a CPU. Blocks until all have joined or `timeout` s passed."""
    os.environ.update(
        RANK=str(rank), LOCAL_RANK="0", WORLD_SIZE=str(world), LOCAL_SIZE="1", MASTER_ADDR=address,
        MASTER_PORT=str(port), DS_ACCELERATOR="cpu" if device == "cpu" else "cuda",
    )  # fmt: skip
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"torch\.distributed")
    import deepspeed
    import deepspeed.ops

    deepspeed.utils.logger.setLevel(logging.ERROR)
    # On a CPU DeepSpeed would compile a shared-memory op of half a minute, used only for inference.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    deepspeed.init_distributed(
        "gloo" if device == "cpu" else "nccl", auto_mpi_discovery=False, verbose=False,
        timeout=timedelta(seconds=timeout),
    )  # fmt: skip


def leave_group() -> None:
    """Leave the process group, if one was joined."""
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def decays(name: str, parameter: torch.nn.Parameter) -> bool:
    """Whether weight decay applies: to matrices alone, never to norms, biases, dt_bias, D and mimo_*."""
    return parameter.ndim == 2 and name.endswith(".weight")


def learning_rate_factor(config: OptimizerConfig, updates: int) -> Any:
    """Multiplier of the learning rate as a function of the optimizer updates done so far."""

    def factor(done: int) -> float:
        if done < config.warmup:
            return (done + 1) / config.warmup
        if config.schedule == "constant":
            return 1.0
        progress = min(1.0, (done - config.warmup) / max(1, updates - config.warmup))
        return 1.0 - (1.0 - config.min_lr_ratio) * progress

    return factor


def build_engine(model: torch.nn.Module, config: LearnerConfig, optimizer: OptimizerConfig, updates: int) -> Any:
    """Wrap a model with fp32 parameters into a DeepSpeed ZeRO engine with AdamW.

    The torch optimizer is handed in so that DeepSpeed compiles none. One engine step is one update: `learner.py` marks the last
    micro-batch itself, so that updates may have any number of them.
    """
    import deepspeed

    decayed = [p for n, p in model.named_parameters() if decays(n, p)]
    plain = [p for n, p in model.named_parameters() if not decays(n, p)]
    groups = [{"params": decayed, "weight_decay": optimizer.weight_decay}, {"params": plain, "weight_decay": 0.0}]
    device = next(model.parameters()).device
    adamw = torch.optim.AdamW(
        groups, lr=optimizer.lr, betas=(optimizer.betas[0], optimizer.betas[1]), eps=optimizer.eps,
        fused=device.type == "cuda",
    )  # fmt: skip
    settings = {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "gradient_clipping": optimizer.grad_clip,
        "zero_optimization": {"stage": config.zero_stage},
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": 10**9,
    }
    factor = learning_rate_factor(optimizer, updates)
    engine, *_ = deepspeed.initialize(
        model=model, optimizer=adamw, config=settings, dist_init_required=False,
        lr_scheduler=lambda opt: torch.optim.lr_scheduler.LambdaLR(opt, factor),
    )  # fmt: skip
    return engine
