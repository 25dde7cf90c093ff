"""The system-call list: what is refused is refused with an error that a library survives, and by every route."""

import contextlib
import ctypes
import fcntl
import mmap
import os
import resource
import shutil
import signal
import socket
import threading
from typing import TYPE_CHECKING

import pytest

from autograder.sandbox import seccomp

if TYPE_CHECKING:
    from selftests.sandbox.conftest import Stage

if reason := seccomp.why_missing():
    pytest.skip(reason, allow_module_level=True)

import pyseccomp

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long
_ONLY = ("seccomp", "uid")


def _number(name: str) -> int:
    number: int = pyseccomp.resolve_syscall(pyseccomp.Arch.NATIVE, name)
    return number


def _call(number: int, *arguments: int) -> int:
    result = int(_libc.syscall(ctypes.c_long(number), *(ctypes.c_long(value) for value in arguments)))
    if result < 0:
        raise OSError(ctypes.get_errno(), str(number))
    return result


@pytest.mark.parametrize(
    "name",
    """
    socket connect bind listen accept4 execve execveat ptrace process_vm_readv process_vm_writev mount umount2 chroot
    pivot_root unshare setns bpf perf_event_open userfaultfd keyctl add_key io_uring_setup io_uring_enter clone3
    memfd_create memfd_secret pidfd_open pidfd_getfd pidfd_send_signal kcmp open_by_handle_at name_to_handle_at
    fanotify_init inotify_init1 setpriority sched_setscheduler ioprio_set migrate_pages move_pages mbind shmget msgget
    semget mq_open setuid setresuid setgroups capset personality chown setsid setpgid reboot init_module swapon
    seccomp landlock_create_ruleset vmsplice acct quotactl syslog
    """.split(),  # noqa: SIM905  # a table of names reads best so
)
def test_refuses_with_an_error(name: str, stage: "Stage") -> None:
    """The call answers "not permitted" or "not implemented"; the process goes on."""
    if (number := _number(name)) < 0:
        pytest.skip(f"this architecture or libseccomp has no {name}")

    def act(_: "Stage") -> None:
        _call(number, 0, 0, 0, 0, 0, 0)

    outcome = stage.attempt(act, stage.policy(_ONLY))
    assert outcome in {("refused", "EPERM"), ("refused", "ENOSYS")}


def test_foreign_numbers_end_the_process(stage: "Stage") -> None:
    """The x32 numbers, which reach the same kernel functions under other numbers, are no way around the list."""
    if os.uname().machine != "x86_64":
        pytest.skip("only x86-64 has x32 numbers")

    def act(_: "Stage") -> int:
        return _call(0x40000000 | _number("getpid"))

    assert stage.attempt(act, stage.policy(_ONLY)) == ("died", "SIGSYS")


@pytest.mark.parametrize("flag", ["CLONE_NEWUSER", "CLONE_NEWNET", "CLONE_NEWPID", "CLONE_PARENT"])
def test_clone_makes_no_namespace_and_no_sibling(flag: str, stage: "Stage") -> None:
    """`clone` starts threads and children of the caller, in the caller's namespaces, and nothing else."""
    bits = {"CLONE_NEWUSER": 0x10000000, "CLONE_NEWNET": 0x40000000, "CLONE_NEWPID": 0x20000000, "CLONE_PARENT": 0x8000}

    def act(_: "Stage") -> None:
        if _call(_number("clone"), bits[flag] | signal.SIGCHLD, 0, 0, 0, 0) == 0:
            os._exit(0)

    assert stage.attempt(act, stage.policy(_ONLY)) == ("refused", "EPERM")


def _own_by_fcntl(_: "Stage") -> None:
    fcntl.fcntl(0, fcntl.F_SETOWN, os.getpid())


def _pick_a_signal(_: "Stage") -> None:
    fcntl.fcntl(0, 10, signal.SIGKILL)


def _own_by_ioctl(_: "Stage") -> None:
    left, _right = socket.socketpair()
    _call(_number("ioctl"), left.fileno(), 0x8901, 0)


def _own_by_ioctl_with_upper_bits(_: "Stage") -> None:
    left, _right = socket.socketpair()
    _call(_number("ioctl"), left.fileno(), 0x1_0000_8901, 0)


def _own_by_fcntl_with_upper_bits(_: "Stage") -> None:
    _call(_number("fcntl"), 0, 0x1_0000_0000 | fcntl.F_SETOWN, os.getpid())


def _be_dumpable(_: "Stage") -> None:
    _call(_number("prctl"), 4, 1, 0, 0, 0)


def _outlive_the_zygote(_: "Stage") -> None:
    _call(_number("prctl"), 1, 0, 0, 0, 0)


def _share_anonymous_memory(_: "Stage") -> None:
    mmap.mmap(-1, 4096).close()


def _pair_of_datagrams(_: "Stage") -> None:
    socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)


def _limits_of_another(stage: "Stage") -> None:
    resource.prlimit(stage.parent, resource.RLIMIT_NOFILE)


@pytest.mark.parametrize(
    "act",
    [
        _own_by_fcntl,
        _pick_a_signal,
        _own_by_ioctl,
        _own_by_ioctl_with_upper_bits,
        _own_by_fcntl_with_upper_bits,
        _be_dumpable,
        _outlive_the_zygote,
        _share_anonymous_memory,
        _pair_of_datagrams,
        _limits_of_another,
    ],
    ids=lambda act: act.__name__.strip("_"),
)
def test_refuses_some_arguments_of_allowed_calls(act: object, stage: "Stage") -> None:
    """Arguments that would signal others, unbind the process or hide memory are refused, whatever their upper bits."""
    assert callable(act)
    assert stage.attempt(act, stage.policy(("seccomp",))) in {("refused", "EPERM"), ("refused", "ENOSYS")}


def test_where_nothing_else_confines_signals_no_pid_can_be_named(stage: "Stage") -> None:
    """Without a uid and Landlock's scope, `kill` reaches the own session only, and no thread can be picked."""

    def by_pid(stage: "Stage") -> None:
        os.kill(stage.parent, 0)

    def by_group(stage: "Stage") -> None:
        os.kill(-stage.parent, 0)

    def everybody(_: "Stage") -> None:
        os.kill(-1, 0)

    def by_thread(stage: "Stage") -> None:
        _call(_number("tgkill"), stage.parent, stage.parent, 0)

    def own_session(_: "Stage") -> None:
        os.kill(0, 0)

    alone = stage.policy(("seccomp",))
    for act in (by_pid, by_group, everybody, by_thread):
        assert stage.attempt(act, alone) in {("refused", "EPERM"), ("refused", "ENOSYS")}
    assert stage.attempt(own_session, alone) == ("done", None)


def test_without_a_uid_modes_and_times_stay_as_they_are(stage: "Stage") -> None:
    """A submission that shares the grader's uid is told that `chmod` succeeded, and nothing changed."""

    def act(stage: "Stage") -> tuple[bool, bool]:
        before = stage.world_readable.stat()
        stage.world_readable.chmod(0o777)
        os.utime(stage.world_readable, (1, 1))
        after = stage.world_readable.stat()
        return before.st_mode == after.st_mode, before.st_mtime == after.st_mtime

    assert stage.attempt(act, stage.policy(("seccomp",))) == ("done", [True, True])


def test_files_can_be_copied_with_their_modes(stage: "Stage") -> None:
    """`shutil.copy2`, which sets modes, times and attributes, works inside the scratch directory."""

    def act(stage: "Stage") -> str:
        (stage.scratch / "a").write_text("text")
        (stage.scratch / "a").chmod(0o640)
        shutil.copy2(stage.scratch / "a", stage.scratch / "b")
        return (stage.scratch / "b").read_text()

    assert stage.attempt(act) == ("done", "text")


def test_what_python_needs_is_allowed(stage: "Stage") -> None:
    """Threads, forks, pipes, stream pairs, timers, descriptor flags and affinity all work, or say that they do."""

    def act(_: "Stage") -> list[int]:
        seen: list[int] = []
        threads = [threading.Thread(target=seen.append, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        left, right = socket.socketpair()
        left.sendall(b"x")
        os.sched_setaffinity(0, os.sched_getaffinity(0))
        os.set_blocking(right.fileno(), False)
        os.set_inheritable(right.fileno(), True)
        signal.setitimer(signal.ITIMER_REAL, 0)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(-1, os.WNOHANG)
        if os.fork() == 0:
            os._exit(3)
        return [*seen, len(right.recv(1)), os.waitstatus_to_exitcode(os.wait()[1])]

    assert stage.attempt(act) == ("done", [0, 1, 2, 3, 1, 3])
