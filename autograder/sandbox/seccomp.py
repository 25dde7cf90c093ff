"""Layer 2, one wall: the list of system calls a submission may make.

Two filters stand one behind the other. The first allows the calls that Python and PyTorch need; every other call,
known today or not, answers with an error, so that a library which tries one can go on without it. The second refuses
some arguments of allowed calls. libseccomp finds the numbers; calls by the numbers of a foreign architecture (x32,
32-bit) end the process, since no right answer makes them.

Decisions:

* No `socket`, only stream `socketpair`s: a datagram pair could send to any socket that has a name.
* No `exec`, so no program but the running one; no `setsid` or `setpgid`, so one session holds the whole submission.
* Threads and `fork` are allowed (`RLIMIT_NPROC` bounds them), new namespaces are not. `clone3` passes its flags
  where a filter cannot see them: it is "not implemented", and libc falls back to `clone`.
* `chmod` and `utime`: Python's `shutil` and `tempfile` call them, so they must not fail. A submission with a uid of
  its own may really do so, since it owns nothing but its own files. One with the grader's uid could reach the grader's
  files, whose modes Landlock does not guard: there they report success and change nothing.
* `kill`: allowed where the uid or Landlock confines signals. Elsewhere only `kill(0, ...)`, which reaches the own
  session; the pid of another process cannot be told from the grader's. What asks the kernel to signal an owner on
  input (`F_SETOWN`) is refused everywhere.
* No `memfd_create`, and no anonymous memory shared between processes: pages of either can be held without being in
  any process's counted memory.
* `sched_setaffinity` reports success and changes nothing: nobody may move the grader's threads.
* `prlimit` for the process itself only, where limits can be lowered but not raised.
"""

import errno
import functools
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from autograder.errors import MachineError
from autograder.sandbox import kernel

__all__ = ["Filters", "build", "enforce", "why_missing"]

_FILES = """
read write pread64 pwrite64 readv writev preadv pwritev preadv2 pwritev2 close close_range lseek _llseek open openat
openat2 creat access faccessat faccessat2 stat lstat fstat newfstatat fstatat64 statx statfs fstatfs getdents
getdents64 getcwd chdir fchdir umask mkdir mkdirat rmdir rename renameat renameat2 link linkat unlink unlinkat symlink
symlinkat readlink readlinkat truncate ftruncate fallocate fadvise64 readahead fsync fdatasync sync_file_range flock
dup dup2 dup3 pipe pipe2 sendfile copy_file_range ioctl cachestat
"""
_WAITING = """
poll ppoll select pselect6 epoll_create epoll_create1 epoll_ctl epoll_wait epoll_pwait epoll_pwait2 eventfd eventfd2
signalfd signalfd4 timerfd_create timerfd_settime timerfd_gettime pause nanosleep clock_nanosleep restart_syscall
futex futex_waitv futex_wait futex_wake futex_requeue sched_yield membarrier
"""
_MEMORY = (
    "mmap munmap mremap mprotect madvise msync mincore brk mlock mlock2 munlock pkey_alloc pkey_free pkey_mprotect"
)
_TIME = """
time gettimeofday clock_gettime clock_getres times alarm getitimer setitimer timer_create timer_settime timer_gettime
timer_getoverrun timer_delete
"""
_PROCESS = """
fork vfork clone wait4 waitid exit exit_group set_tid_address set_robust_list get_robust_list rseq arch_prctl
getpid getppid gettid getpgrp getpgid getsid getuid geteuid getgid getegid getgroups getresuid getresgid capget
getrlimit getrusage getpriority getcpu sched_getaffinity sched_getparam sched_getscheduler sched_getattr
sched_get_priority_max sched_get_priority_min sched_rr_get_interval get_mempolicy uname sysinfo getrandom
rt_sigaction rt_sigprocmask rt_sigreturn rt_sigpending rt_sigtimedwait rt_sigsuspend sigaltstack
"""
_CHANNEL = "sendmsg recvmsg sendto recvfrom recvmmsg shutdown getsockopt setsockopt getsockname getpeername"
_ALLOWED = (*_FILES.split(), *_WAITING.split(), *_MEMORY.split(), *_TIME.split(), *_PROCESS.split(), *_CHANNEL.split())

# These answer "not permitted", which Python turns into PermissionError; what is in no list answers "not implemented".
_REFUSED = """
socket connect bind listen accept accept4 execve execveat setsid setpgid kill tkill tgkill
ptrace process_vm_readv process_vm_writev process_madvise kcmp pidfd_open pidfd_getfd pidfd_send_signal
mount umount2 pivot_root chroot unshare setns bpf perf_event_open userfaultfd keyctl add_key request_key
setuid setgid setreuid setregid setresuid setresgid setgroups setfsuid setfsgid capset personality
chown fchown lchown fchownat mknod mknodat setrlimit setpriority ioprio_set
sched_setscheduler sched_setparam sched_setattr set_mempolicy mbind migrate_pages move_pages
shmget shmat msgget semget mq_open inotify_init inotify_init1 inotify_add_watch fanotify_init open_by_handle_at
rt_sigqueueinfo rt_tgsigqueueinfo seccomp
"""
_SIGNALS = ("kill", "tkill", "tgkill")
_OWN_FILES = ("chmod", "fchmod", "fchmodat", "fchmodat2", "utime", "utimes", "utimensat", "futimesat")
# shutil.copy2 goes on where a file system has no extended attributes, and nowhere else.
_ATTRIBUTES = """
getxattr lgetxattr fgetxattr listxattr llistxattr flistxattr setxattr lsetxattr fsetxattr removexattr lremovexattr
fremovexattr
"""
_NO_EFFECT = ("sched_setaffinity",)

_WORD = 0xFFFF_FFFF  # what the kernel looks at of a 32-bit argument; the upper half is the caller's to choose
_NAMESPACES = (0x80, 0x20000, 0x2000000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000)
_CLONE_PARENT = 0x8000
# Owner and terminal: FIOSETOWN SIOCSPGRP; TIOCSTI TIOCLINUX TIOCSPGRP TIOCSCTTY TIOCSETD.
_IOCTLS = (0x8901, 0x8902, 0x5412, 0x541C, 0x5410, 0x540E, 0x5423)
# F_DUPFD to F_SETLKW, F_GETOWN, F_GETSIG, open-file-description locks, F_DUPFD_CLOEXEC, pipe size.
_FCNTLS = (*range(8), 9, 11, 36, 37, 38, 1030, 1031, 1032)
# Names of threads and mappings, timer slack, and reading attributes.
_PRCTLS = (2, 3, 15, 16, 21, 23, 29, 30, 38, 39, 42, 0x53564D41)
_AF_UNIX = 1
_STREAM, _SEQPACKET, _TYPE_MASK = 1, 5, 0xF
_SHARED_ANONYMOUS = 0x21


@functools.cache
def why_missing() -> str | None:
    """Why no filter can be built here, in one sentence, or None when it can."""
    if not Path("/proc/sys/kernel/seccomp/actions_avail").exists():
        return "this system has no system-call filters"
    try:
        import pyseccomp  # noqa: F401, PLC0415  # importing it fails where libseccomp is not installed
    except (ImportError, RuntimeError, OSError) as error:
        return f"libseccomp cannot be used ({error}); install the system package libseccomp2"
    return None


@dataclass(frozen=True)
class Filters:
    """The two filters, ready to be loaded.

    Attributes:
        arguments: program that refuses some arguments.
        allowed: program that allows the listed calls; after it no further one can be loaded.
        calls: how many system calls are allowed, some of them with certain arguments only.
    """

    arguments: bytes = field(repr=False)
    allowed: bytes = field(repr=False)
    calls: int


@functools.cache
def build(*, own_uid: bool, signals_confined: bool) -> Filters:
    """Build the filters in the zygote; the same ones serve every submission.

    Args:
        own_uid: the submission has a uid of its own.
        signals_confined: its uid or Landlock keeps its signals from the grader.

    Raises:
        MachineError: libseccomp refused.
    """
    import pyseccomp as s  # noqa: PLC0415  # importing it fails where libseccomp is not installed

    try:
        allowed = _new(s, s.ERRNO(errno.ENOSYS))
        calls = {name for name in _ALLOWED if _rule(s, allowed, s.ALLOW, name)}
        calls |= {name for name in _OWN_FILES if _rule(s, allowed, s.ALLOW if own_uid else s.ERRNO(0), name)}
        calls |= {name for name in _NO_EFFECT if _rule(s, allowed, s.ERRNO(0), name)}
        calls |= _allow_some_arguments(s, allowed, signals_confined=signals_confined)
        for name in sorted(set(_REFUSED.split()) - calls):
            _rule(s, allowed, s.ERRNO(errno.EPERM), name)
        for name in _ATTRIBUTES.split():
            _rule(s, allowed, s.ERRNO(errno.ENOTSUP), name)
        arguments = _new(s, s.ALLOW)
        _refuse_some_arguments(s, arguments)
        return Filters(_program(arguments), _program(allowed), len(calls))
    except OSError as error:
        raise MachineError(f"libseccomp refused a rule ({error}); install libseccomp 2.5 or newer.") from error


def _new(s: Any, default: int) -> Any:
    created = s.SyscallFilter(default)
    created.set_attr(s.Attr.ACT_BADARCH, s.KILL_PROCESS)
    return created


def _program(of: Any) -> bytes:
    # Not a temporary file: looking for a place to put one fixes the zygote's choice, which submissions inherit.
    with os.fdopen(os.memfd_create("filter"), "w+b") as file:
        of.export_bpf(file)
        file.seek(0)
        return file.read()


def _rule(s: Any, into: Any, action: int, name: str, *arguments: Any) -> bool:
    """Add a rule; False where this architecture or this libseccomp does not know the call."""
    if s.resolve_syscall(s.Arch.NATIVE, name) < 0:
        return False
    into.add_rule(action, name, *arguments)
    return True


def _allow_some_arguments(s: Any, allowed: Any, *, signals_confined: bool) -> set[str]:
    """Allow calls for certain values of an argument, compared in all 64 bits; others answer "not implemented"."""
    choices: dict[str, list[tuple[Any, ...]]] = {
        "fcntl": [(s.Arg(1, s.EQ, command),) for command in _FCNTLS],
        "prctl": [(s.Arg(0, s.EQ, option),) for option in _PRCTLS],
        "prlimit64": [(s.Arg(0, s.EQ, 0),)],
        "socketpair": [
            (s.Arg(0, s.EQ, _AF_UNIX), s.Arg(1, s.MASKED_EQ, _TYPE_MASK, kind)) for kind in (_STREAM, _SEQPACKET)
        ],
    }
    if signals_confined:
        choices |= {name: [()] for name in _SIGNALS}
    else:
        choices["kill"] = [(s.Arg(0, s.EQ, 0),)]
    return {name for name, some in choices.items() for values in some if _rule(s, allowed, s.ALLOW, name, *values)}


def _refuse_some_arguments(s: Any, into: Any) -> None:
    refuse = s.ERRNO(errno.EPERM)
    for flag in (*_NAMESPACES, _CLONE_PARENT):
        _rule(s, into, refuse, "clone", s.Arg(0, s.MASKED_EQ, flag, flag))
    for command in _IOCTLS:
        _rule(s, into, refuse, "ioctl", s.Arg(1, s.MASKED_EQ, _WORD, command))
    for name in ("mmap", "mmap2"):
        _rule(s, into, refuse, name, s.Arg(3, s.MASKED_EQ, _SHARED_ANONYMOUS, _SHARED_ANONYMOUS))


def enforce(filters: Filters) -> str:
    """Load the filters in the calling process, which has one thread and `no_new_privs` set.

    Returns:
        What stands now, such as "allow-list of 230 calls".

    Raises:
        MachineError: the kernel refused.
    """
    try:
        kernel.load_filter(filters.arguments)
        kernel.load_filter(filters.allowed)
    except OSError as error:
        raise MachineError(f"The kernel refused the filter ({error.strerror}); run `autograder doctor`.") from error
    return f"allow-list of {filters.calls} calls"
