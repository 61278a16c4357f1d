"""The folder of a run: what lies where, who may write it, and files that are whole or absent."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any, TextIO

import yaml

from ..records import Group

CHECKPOINT = "{}_{:06d}"
PARTIAL = ".partial"


class RunFolderError(ValueError):
    """The folder cannot be used as asked."""


class RunFolder:
    """Layout: config.yaml, metrics.jsonl, evaluations.jsonl, warm_start/, warm_start.jsonl, rollouts/, checkpoints/, policy/,
    summary.json, curves.png. Checkpoints of reinforcement learning are called step_N, of supervised training sft_N."""

    def __init__(self, path: Path):
        self.path = path
        self._lock: TextIO | None = None

    @classmethod
    def open(cls, directory: str, root: str, name: str, resume: bool) -> RunFolder:
        """Take a run's folder and lock it.

        directory: as the user gave it, or empty for root/name, numbered on while taken (with resume: the newest of those).
        Raises RunFolderError when another process holds it, when it holds a run and `resume` is not set, and when there is
        nothing to resume.
        """
        path = Path(directory) if directory else cls._default(Path(root), name, resume)
        folder = cls(path)
        if resume and not folder.used():
            raise RunFolderError(f"resume: got {path}, which holds no run, wanted a run folder to go on with")
        path.mkdir(parents=True, exist_ok=True)
        folder.lock()
        for cut_off in path.glob(f"checkpoints/*{PARTIAL}"):
            folder.discard(cut_off)
        if not resume and folder.used():
            raise RunFolderError(
                f"run.dir: got {path}, which already holds a run, wanted an empty folder (or resume=true to go on with it)"
            )
        return folder

    def claim(self, command: str) -> None:
        """Raise RunFolderError when the folder's run was begun by another command, whose rows and checkpoints mean other things."""
        file = self.path / "config.yaml"
        saved = (yaml.safe_load(file.read_text()) if file.exists() else None) or {}
        begun = saved.get("provenance", {}).get("command", command)
        if begun != command:
            raise RunFolderError(f"resume: got {self.path}, a run of mimosa {begun}, wanted one of mimosa {command}")

    @staticmethod
    def _default(root: Path, name: str, resume: bool) -> Path:
        taken = sorted(root.glob(f"{name}*"), key=lambda p: p.stat().st_mtime) if root.is_dir() else []
        taken = [p for p in taken if p.name == name or p.name.removeprefix(f"{name}-").isdigit()]
        if resume:
            if not taken:
                raise RunFolderError(f"resume: got no run named {name} in {root}, wanted one (or set run.dir)")
            return taken[-1]
        path, number = root / name, 2
        while path.exists():
            path, number = root / f"{name}-{number}", number + 1
        return path

    def used(self) -> bool:
        """Whether a run has left anything here; a configuration alone is what a failed start leaves."""
        return any(
            (self.path / name).exists()
            for name in ("metrics.jsonl", "warm_start.jsonl", "evaluations.jsonl", "checkpoints")
        )

    def lock(self) -> None:
        """Hold the folder for this process; the lock ends with it."""
        handle = open(self.path / "run.lock", "a+")  # noqa: SIM115 - held as long as the run
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            handle.seek(0)
            raise RunFolderError(f"run.dir: {self.path} is in use by process {handle.read().strip()}") from error
        handle.truncate(0)
        handle.write(str(os.getpid()))
        handle.flush()
        self._lock = handle

    def release(self) -> None:
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    @property
    def policy(self) -> Path:
        return self.path / "policy"

    @property
    def warm_start(self) -> Path:
        return self.path / "warm_start"

    def checkpoints(self, kind: str = "step") -> list[Path]:
        """Whole checkpoints of a kind, "step" or "sft", oldest first."""
        found = (self.path / "checkpoints").glob(f"{kind}_*")
        return sorted(p for p in found if p.is_dir() and not p.suffix)

    def begin_checkpoint(self, step: int, kind: str = "step") -> Path:
        """An empty folder beside the checkpoints, to be written and then handed to `commit`."""
        return self.begin_folder(f"checkpoints/{CHECKPOINT.format(kind, step)}")

    def begin_folder(self, name: str) -> Path:
        """An empty folder beside the one called `name`, which it is to replace when it is whole."""
        partial = self.path / (name + PARTIAL)
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        return partial

    def commit(self, partial: Path, keep: int) -> Path:
        """Rename a whole checkpoint into place, then drop all but the newest `keep` of its kind."""
        final = partial.with_suffix("")
        replace_folder(partial, final)
        for old in self.checkpoints(final.name.partition("_")[0])[:-keep]:
            shutil.rmtree(old)
        return final

    def drop_checkpoints(self, kind: str) -> None:
        for old in self.checkpoints(kind):
            shutil.rmtree(old)

    def discard(self, partial: Path) -> None:
        shutil.rmtree(partial, ignore_errors=True)

    def write_json(self, name: str, content: dict[str, Any]) -> None:
        """Write beside and rename, so that the file is whole or the old one."""
        write_text(self.path / name, json.dumps(content, indent=2) + "\n")

    def write_rollouts(self, step: int, groups: Iterable[Group]) -> None:
        """Every completion of a step with its verdict, one JSON line each; a step that is done again replaces its file."""
        lines = (json.dumps(row) for group in groups for row in rollout_rows(step, group))
        (self.path / "rollouts").mkdir(exist_ok=True)
        write_text(self.path / "rollouts" / f"step_{step:06d}.jsonl", "".join(line + "\n" for line in lines))

    def append_evaluation(self, row: dict[str, Any]) -> None:
        with (self.path / "evaluations.jsonl").open("a") as file:
            file.write(json.dumps(row) + "\n")

    def evaluations(self) -> list[dict[str, Any]]:
        """Rows of evaluations.jsonl, in the order of their steps; of a step that was evaluated again, the last."""
        rows = {row["step"]: row for row in read_jsonl(self.path / "evaluations.jsonl")}
        return [rows[step] for step in sorted(rows)]

    def metrics(self) -> list[dict[str, Any]]:
        return read_jsonl(self.path / "metrics.jsonl")

    def truncate_after(self, step: int) -> None:
        """Drop rows and rollouts of steps after `step`, which are to be done again."""
        for name in ("metrics.jsonl", "evaluations.jsonl"):
            truncate_rows(self.path / name, step)
        for file in (self.path / "rollouts").glob("step_*.jsonl"):
            if int(file.stem.removeprefix("step_")) > step:
                file.unlink()


def rollout_rows(step: int, group: Group) -> list[dict[str, Any]]:
    """The lines of rollouts/ for one group."""
    prompt = group.prompt.prompt
    text = prompt if isinstance(prompt, str) else [asdict(message) for message in prompt]
    return [
        {
            "step": step, "uid": c.uid, "sample": c.sample, "prompt": text, "ground_truth": group.prompt.ground_truth,
            "text": c.text, "finish_reason": c.finish_reason, "tokens": len(c.token_ids),
            "logprob": round(float(c.logprobs.sum()), 4), "policy_version": sorted({int(x) for x in c.policy_version}),
            "verifier": group.prompt.verifier, "status": v.status, "score": v.score, "reason": v.reason, "components": dict(v.components),
        }
        for c, v in zip(group.completions, group.verdicts, strict=True)
    ]  # fmt: skip


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """All rows of a file of JSON lines; none when it is absent. A last line cut off by a crash is left out."""
    lines = path.read_text().splitlines() if path.exists() else []
    rows = []
    for i, line in enumerate(lines):
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            if i + 1 < len(lines):
                raise
    return rows


def truncate_rows(path: Path, step: int) -> None:
    """Drop the rows of steps after `step` from a file of JSON lines, if there is one."""
    if path.exists():
        rows = [row for row in read_jsonl(path) if row["step"] <= step]
        write_text(path, "".join(json.dumps(row) + "\n" for row in rows))


def write_text(path: Path, text: str) -> None:
    """Replace a file in one step."""
    aside = path.with_name(path.name + PARTIAL)
    aside.write_text(text)
    os.replace(aside, path)


def replace_folder(new: Path, final: Path) -> None:
    """Put a whole folder in another's place; the old one is gone only once the new one stands."""
    old = final.with_name(final.name + ".old")
    shutil.rmtree(old, ignore_errors=True)
    if final.exists():
        final.rename(old)
    new.rename(final)
    shutil.rmtree(old, ignore_errors=True)
