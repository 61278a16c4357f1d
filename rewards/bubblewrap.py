"""The command line of `bwrap` around the zygote: namespaces of its own, and of the host's files only what Python itself needs."""

from __future__ import annotations

import os
import shutil
import sysconfig
from pathlib import Path

from .confinement import may_change_user

PACKAGE = "/mimosa"  # where the few modules that the zygote imports appear inside
MODULES = ("candidate", "confinement", "landlock", "limits", "seccomp", "wire", "zygote")
_LIBRARIES = ("/lib", "/lib64", "/usr/lib", "/usr/lib64")


def find() -> str | None:
    """The path of `bwrap`, if it is installed."""
    return shutil.which("bwrap")


def command(bwrap: str, python: str) -> list[str]:
    """What to put before the zygote's own command line, whose program is `python`."""
    line = [
        bwrap, "--die-with-parent", "--new-session", "--as-pid-1", "--hostname", "sandbox",
        "--unshare-pid", "--unshare-net", "--unshare-ipc", "--unshare-uts", "--unshare-cgroup-try", "--cap-drop", "ALL",
    ]  # fmt: skip
    if may_change_user():
        for name in ("CAP_SETUID", "CAP_SETGID", "CAP_KILL", "CAP_SYS_CHROOT"):
            line += ["--cap-add", name]
    else:
        line += ["--unshare-user"]
    for folder in _LIBRARIES:
        line += _shown(folder)
    needed = [python, sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib"), _shared_python()]
    for path in dict.fromkeys(path for path in needed if path and os.path.exists(path)):
        line += ["--ro-bind", path, path]
    here = Path(__file__).parent
    for name in MODULES:
        line += ["--ro-bind", str(here / f"{name}.py"), f"{PACKAGE}/rewards/{name}.py"]
    return [*line, "--chdir", "/", "--remount-ro", "/"]


def _shown(folder: str) -> list[str]:
    if os.path.islink(folder):
        return ["--symlink", os.readlink(folder), folder]
    return ["--ro-bind", folder, folder] if os.path.isdir(folder) else []


def _shared_python() -> str:
    """The interpreter's shared library, where it has one."""
    folder, name = sysconfig.get_config_var("LIBDIR"), sysconfig.get_config_var("INSTSONAME")
    return os.path.join(folder, name) if folder and name else ""
