"""What a figure depends on: the code's commit and the versions of what it ran with."""

from __future__ import annotations

import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PACKAGES = ("mimosa-rl", "torch", "triton", "ray", "deepspeed", "transformers", "datasets", "math-verify", "numpy")


def provenance() -> dict[str, str]:
    """Commit (with "+dirty" when files differ from it; "unknown" outside a checkout), Python and package versions."""
    return {"commit": commit(), "python": platform.python_version(), **{name: _version(name) for name in PACKAGES}}


def commit() -> str:
    try:
        head = _git("rev-parse", "HEAD")
        return head + ("+dirty" if _git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.SubprocessError):
        return "unknown"


def _git(*arguments: str) -> str:
    root = Path(__file__).parent.parent
    done = subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True, timeout=10, check=True)
    return done.stdout.strip()


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "absent"
