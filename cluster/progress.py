"""How far a run has come, written into its checkpoints; and the clock of its stages."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from ..configs.errors import RunError
from ..configs.schema import CheckpointConfig
from ..observe.run_folder import RunFolder, replace_folder
from ..rollout.stream import StreamState

STATE = "progress.json"


@dataclass(frozen=True, slots=True)
class Progress:
    """State of the driver after its last finished step."""

    stream: StreamState  # position in the data behind that step's prompts
    step: int = 0
    version: int = 0
    seconds: float = 0.0  # spent in steps
    pending: tuple[
        str, ...
    ] = ()  # uids of groups that were begun and belong to later steps: a resumed run begins them again

    def bumped(self) -> Progress:
        return replace(self, version=self.version + 1)

    def after(self, step: int, stream: StreamState, seconds: float, pending: tuple[str, ...] = ()) -> Progress:
        return replace(self, step=step, stream=stream, seconds=seconds, pending=pending)


class CheckpointError(RunError):
    """A checkpoint or a policy that could not be written."""


class Saver:
    """Checkpoints of one kind ("step" or "sft") and policies of a run folder: written aside, put in place when whole."""

    def __init__(self, run: RunFolder, config: CheckpointConfig, kind: str = "step"):
        self.run, self.config, self.kind = run, config, kind

    def latest(self) -> Path | None:
        found = self.run.checkpoints(self.kind)
        return found[-1] if found else None

    def read(self, folder: Path) -> Progress:
        saved = json.loads((folder / STATE).read_text())
        pending = tuple(saved.get("pending", ()))
        return Progress(**{**saved, "stream": StreamState(**saved["stream"]), "pending": pending})

    def write(self, progress: Progress, save_learners: Callable[[str], Any]) -> None:
        """A new checkpoint. On an error (a full disk, say) nothing of it stays and the earlier ones are untouched.

        Raises CheckpointError naming what went wrong and the last whole checkpoint, RunError of a learner as it is.
        """
        with self._written(
            f"checkpoint of step {progress.step}", lambda: self.run.begin_checkpoint(progress.step, self.kind)
        ) as partial:
            save_learners(str(partial))
            (partial / STATE).write_text(json.dumps(asdict(progress), indent=1) + "\n")
        self.run.commit(partial, self.config.keep)

    def write_policy(self, name: str, save: Callable[[str], Any]) -> None:
        """A policy into the run's folder `name`; an earlier one stays until the new one is whole. Raises as `write` does."""
        with self._written(f"{name}/", lambda: self.run.begin_folder(name)) as partial:
            save(str(partial))
        replace_folder(partial, self.run.path / name)

    @contextmanager
    def _written(self, what: str, begin: Callable[[], Path]) -> Iterator[Path]:
        """A folder to be filled; when that fails nothing of it stays."""
        partial: Path | None = None
        try:
            partial = begin().resolve()
            yield partial
        except Exception as error:
            free = shutil.disk_usage(self.run.path).free >> 20  # torch's own word for a full disk is "unexpected pos"
            if partial is not None:
                self.run.discard(partial)
            if isinstance(error, RunError):
                raise
            whole = self.latest() or "there is none"
            why = next(reversed(str(error).strip().splitlines()), type(error).__name__)
            raise CheckpointError(
                f"{what} could not be written with {free} MiB free: {why}; last whole checkpoint: {whole}"
            ) from error


STAGES = (
    "wait_rollout",
    "rollout",
    "verify",
    "advantage",
    "mismatch",
    "pack",
    "learn",
    "broadcast",
    "eval",
    "checkpoint",
)


class Clock:
    """Seconds by stage; a stage that a step had no use for took none."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = dict.fromkeys(STAGES, 0.0)

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        started = time.monotonic()
        try:
            yield
        finally:
            self.seconds[stage] += time.monotonic() - started
