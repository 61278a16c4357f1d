"""The system calls that a candidate may make: an allow-list in classic BPF, everything else answers ENOSYS.

What Python needs to compute, read its library and talk over open descriptors. No process, no exec, no new socket to anywhere,
no signal to anyone, no change to a file, no namespace, no ptrace. ENOSYS and not a kill, since libc then takes its older ways.
Numbers: asm/unistd_64.h (x86-64) and asm-generic/unistd.h (aarch64).
"""

from __future__ import annotations

import ctypes
import platform
import struct

_X86_64 = {
    "read": 0, "write": 1, "open": 2, "close": 3, "stat": 4, "fstat": 5, "lstat": 6, "poll": 7, "lseek": 8, "mmap": 9,
    "mprotect": 10, "munmap": 11, "brk": 12, "rt_sigaction": 13, "rt_sigprocmask": 14, "rt_sigreturn": 15, "ioctl": 16,
    "pread64": 17, "readv": 19, "writev": 20, "access": 21, "pipe": 22, "select": 23, "sched_yield": 24, "mremap": 25,
    "madvise": 28, "dup": 32, "dup2": 33, "pause": 34, "nanosleep": 35, "getitimer": 36, "alarm": 37, "setitimer": 38,
    "getpid": 39, "sendto": 44, "recvfrom": 45, "socketpair": 53, "clone": 56, "exit": 60, "uname": 63, "fcntl": 72,
    "getdents": 78, "getcwd": 79, "readlink": 89, "gettimeofday": 96, "getrlimit": 97, "getrusage": 98, "sysinfo": 99,
    "times": 100, "getuid": 102, "getgid": 104, "geteuid": 107, "getegid": 108, "getppid": 110, "getpgrp": 111,
    "getgroups": 115, "rt_sigtimedwait": 128, "rt_sigsuspend": 130, "sigaltstack": 131, "gettid": 186, "time": 201,
    "futex": 202, "sched_getaffinity": 204, "epoll_create": 213, "getdents64": 217, "set_tid_address": 218,
    "restart_syscall": 219, "clock_gettime": 228, "clock_getres": 229, "clock_nanosleep": 230, "exit_group": 231,
    "epoll_wait": 232, "epoll_ctl": 233, "openat": 257, "newfstatat": 262, "readlinkat": 267, "faccessat": 269,
    "pselect6": 270, "ppoll": 271, "set_robust_list": 273, "epoll_pwait": 281, "eventfd2": 290, "epoll_create1": 291,
    "dup3": 292, "pipe2": 293, "prlimit64": 302, "getrandom": 318, "membarrier": 324, "statx": 332, "rseq": 334,
    "close_range": 436, "faccessat2": 439,
}  # fmt: skip
_AARCH64 = {
    "getcwd": 17, "eventfd2": 19, "epoll_create1": 20, "epoll_ctl": 21, "epoll_pwait": 22, "dup": 23, "dup3": 24,
    "fcntl": 25, "ioctl": 29, "faccessat": 48, "openat": 56, "close": 57, "pipe2": 59, "getdents64": 61, "lseek": 62,
    "read": 63, "write": 64, "readv": 65, "writev": 66, "pread64": 67, "pselect6": 72, "ppoll": 73, "readlinkat": 78,
    "newfstatat": 79, "fstat": 80, "exit": 93, "exit_group": 94, "set_tid_address": 96, "futex": 98,
    "set_robust_list": 99, "nanosleep": 101, "getitimer": 102, "setitimer": 103, "clock_gettime": 113,
    "clock_getres": 114, "clock_nanosleep": 115, "sched_getaffinity": 123, "sched_yield": 124, "restart_syscall": 128,
    "sigaltstack": 132, "rt_sigsuspend": 133, "rt_sigaction": 134, "rt_sigprocmask": 135, "rt_sigtimedwait": 137,
    "rt_sigreturn": 139, "times": 153, "getgroups": 158, "uname": 160, "getrusage": 165, "gettimeofday": 169,
    "getpid": 172, "getppid": 173, "getuid": 174, "geteuid": 175, "getgid": 176, "getegid": 177, "gettid": 178,
    "sysinfo": 179, "socketpair": 199, "sendto": 206, "recvfrom": 207, "brk": 214, "munmap": 215, "mremap": 216,
    "clone": 220, "mmap": 222, "mprotect": 226, "madvise": 233, "prlimit64": 261, "getrandom": 278, "membarrier": 283,
    "statx": 291, "rseq": 293, "close_range": 436, "faccessat2": 439,
}  # fmt: skip
_MACHINES = {"x86_64": (0xC000003E, _X86_64), "aarch64": (0xC00000B7, _AARCH64)}  # AUDIT_ARCH_*

_THREAD = 0x00010000  # CLONE_THREAD
_NAMESPACES = 0x7E020080  # CLONE_NEWNS, NEWTIME and the others
# allowed commands: F_DUPFD GETFD SETFD GETFL SETFL, locks, DUPFD_CLOEXEC. Not F_SETOWN, F_SETSIG: they send signals
_FCNTL = (0, 1, 2, 3, 4, 5, 6, 7, 1030)
_IOCTL = (0x5401, 0x5413, 0x541B, 0x5421, 0x5450, 0x5451)  # TCGETS, TIOCGWINSZ, FIONREAD, FIONBIO, FIONCLEX, FIOCLEX

_LOAD, _EQUAL, _ANY_SET, _AND, _RETURN = 0x20, 0x15, 0x45, 0x54, 0x06
_ALLOW, _KILL, _ENOSYS = 0x7FFF0000, 0x80000000, 0x00050000 | 38
_PR_SET_SECCOMP, _MODE_FILTER = 22, 2

_LIBC = ctypes.CDLL(None, use_errno=True)
Instruction = tuple[int, int, int, int]  # code, jump if true, jump if false, constant


class _Program(ctypes.Structure):
    """struct sock_fprog"""

    _fields_ = [("length", ctypes.c_ushort), ("filter", ctypes.c_char_p)]


def program() -> bytes:
    """The filter for this machine, as an array of struct sock_filter. Raises OSError for another kind of machine."""
    machine = platform.machine()
    if machine not in _MACHINES:
        raise OSError(f"no system call table for {machine}, only for {', '.join(_MACHINES)}")
    architecture, numbers = _MACHINES[machine]
    code: list[Instruction] = [
        (_LOAD, 0, 0, 4),
        (_EQUAL, 1, 0, architecture),
        (_RETURN, 0, 0, _KILL),
        (_LOAD, 0, 0, 0),  # x32 numbers have bit 30 set and so equal none below
    ]
    for name, number in numbers.items():
        body = _conditions(name)
        code += [(_EQUAL, 0, len(body), number), *body]
    code.append((_RETURN, 0, 0, _ENOSYS))
    return b"".join(struct.pack("=HBBI", *one) for one in code)


def install(filter_bytes: bytes) -> None:
    """Binds this thread and all it will start; needs no_new_privs. Raises OSError."""
    argument = _Program(len(filter_bytes) // 8, filter_bytes)
    if _LIBC.prctl(_PR_SET_SECCOMP, _MODE_FILTER, ctypes.byref(argument), 0, 0):
        raise OSError(ctypes.get_errno(), "seccomp filter refused")


def _conditions(name: str) -> list[Instruction]:
    """What follows once the number is `name`'s; ends in a return on every path."""
    if name == "clone":  # threads only; clone3 hides its flags in memory and is left out
        return [
            _argument(0), (_AND, 0, 0, _THREAD | _NAMESPACES), (_EQUAL, 0, 1, _THREAD), _allow(), _refuse(),
        ]  # fmt: skip
    if name == "fcntl":
        return _one_of(1, _FCNTL)
    if name == "ioctl":
        return _one_of(1, _IOCTL)
    if name == "socketpair":  # event loops wake themselves over one
        return _one_of(0, (1,))
    if name == "prlimit64":  # of another process it would be a weapon
        return _one_of(0, (0,))
    if name == "sendto":  # with an address it would reach the sockets of others
        return [_argument(4), (_EQUAL, 0, 3, 0), _argument(4, high=True), (_EQUAL, 0, 1, 0), _allow(), _refuse()]
    return [_allow()]


def _one_of(index: int, values: tuple[int, ...]) -> list[Instruction]:
    tests = [(_EQUAL, len(values) - place, 0, value) for place, value in enumerate(values)]
    return [_argument(index), *tests, _refuse(), _allow()]


def _argument(index: int, high: bool = False) -> Instruction:
    return (_LOAD, 0, 0, 16 + 8 * index + (4 if high else 0))  # both machines are little-endian


def _allow() -> Instruction:
    return (_RETURN, 0, 0, _ALLOW)


def _refuse() -> Instruction:
    return (_RETURN, 0, 0, _ENOSYS)
