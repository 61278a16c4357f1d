"""Attacks on a sandbox before it is trusted: each must fail, and an honest program must still run."""

from __future__ import annotations

import time

from .limits import MIB, Limits
from .sandbox import SandboxFailed, Session, Slot
from .wire import BadFrame, decode

_SECONDS = 10.0
_SPIN_SECONDS = 0.1
_LIMITS = Limits(wall=_SECONDS, memory=512 * MIB)
# Each attack returns when it succeeds. OSError and the like are what a sandbox answers.
_ATTACKS = """
import ctypes, mmap, os, resource, socket

libc = ctypes.CDLL(None, use_errno=True)

def called(result):
    if result < 0:
        raise OSError(ctypes.get_errno(), "refused")

def read_host_file(): open("/etc/passwd").read()
def list_host(): os.listdir("/etc")
def read_proc(): open("/proc/%d/environ" % os.getppid()).read()
def read_own_memory(): open("/proc/self/mem", "rb").close()
def write(path):
    open(path, "w").close()
    os.unlink(path)
def write_tmp(): write("/tmp/mimosa-self-test")
def write_here(): write("mimosa-self-test")
def write_shared(): write("/dev/shm/mimosa-self-test")
def fork():
    if os.fork() == 0:
        os._exit(0)
def vfork_exec(): os.posix_spawn("/bin/true", ["true"], {})
def raw_clone(): called(libc.syscall(CLONE, 17, 0, 0, 0, 0)) or os.getpid() == parent or os._exit(0)
def execute():
    try:
        os.execv("/mimosa-self-test", ["true"])
    except FileNotFoundError:
        pass
def connect(): socket.create_connection(("127.0.0.1", 9), 0.2)
def internet_socket(): socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
def unix_socket(): socket.socket(socket.AF_UNIX)
def netlink_socket(): socket.socket(socket.AF_NETLINK, socket.SOCK_RAW)
def signal_parent(): os.kill(os.getppid(), 0)
def signal_group(): os.killpg(0, 0)
def trace_parent(): called(libc.ptrace(0x4206, os.getppid(), 0, 0))
def limit_parent(): resource.prlimit(os.getppid(), resource.RLIMIT_CPU)
def raise_limit(): resource.setrlimit(resource.RLIMIT_AS, (-1, -1))
def new_namespace(): called(libc.unshare(0x10000000))
def memory_file(): os.memfd_create("x")
def keep_on(): called(libc.prctl(1, 0, 0, 0, 0))
def become_root(): os.setuid(0)
def much_memory(): mmap.mmap(-1, 4 << 30)
def see_environment(): os.environ.items().__iter__().__next__()
def many_files():
    for _ in range(1000):
        os.dup(0)

parent = os.getpid()
CLONE = 56 if os.uname().machine == "x86_64" else 220
NAMES = [name for name, one in list(globals().items()) if getattr(one, "__module__", "") == __name__]
NAMES = [name for name in NAMES if name not in ("called", "write")]

def attempt():
    won = []
    for name in NAMES:
        try:
            globals()[name]()
            won.append(name)
        except (OSError, ValueError, MemoryError, StopIteration, PermissionError):
            pass
    return won

def spin():
    while True:
        pass
"""


def breaches(slot: Slot) -> list[str]:
    """Names of the attacks that succeed in the slot's sandbox; empty when it holds. Raises SandboxFailed."""
    with slot.session(_LIMITS) as session:
        won = _asked(session, "attempt", time.monotonic() + _SECONDS)
    if type(won) is not list:
        raise SandboxFailed(f"{slot.tier}: the self-test did not run")
    found = [str(name) for name in won]
    return found + _spins(slot)


def _spins(slot: Slot) -> list[str]:
    """Whether an endless loop ends at its limit and leaves a sandbox that works."""
    start = time.monotonic()
    with slot.session(_LIMITS) as session:
        try:
            _asked(session, "spin", start + _SPIN_SECONDS)
        except TimeoutError:
            session.end()
            return [] if time.monotonic() - start < _SECONDS else ["endless_loop"]
    return ["endless_loop"]


def _asked(session: Session, name: str, deadline: float) -> object:
    try:
        session.channel.send({"do": "load", "code": _ATTACKS, "entry": name}, deadline)
        reply = session.channel.receive(deadline)
        if "value" not in reply:
            raise SandboxFailed(f"the self-test did not load: {reply}")
        session.channel.send({"do": "call", "name": name, "args": [], "named": {}}, deadline)
        return decode(session.channel.receive(deadline).get("value"))
    except (EOFError, ConnectionError, BadFrame) as error:
        raise SandboxFailed(f"the self-test was cut off: {error}") from error
