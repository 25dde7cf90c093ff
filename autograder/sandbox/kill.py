"""Layer 2: end everything that a submission started, count its memory, and remove what it left.

Where the grader is root, a submission is its uid: nothing else has it, it cannot be changed, and the kernel signals all
its processes in one step, so a fork in progress cannot slip through. Elsewhere a submission is its session: `seccomp`
refuses `setsid`, so no process leaves it. No id that a submission named is ever signalled.

The functions are called in the zygote, which is the child subreaper and reaps, after this and not before: until then
the template's process id, which is the session's, cannot be given to another process.
"""

import contextlib
import os
import random
import signal
import stat
import time
from collections.abc import Iterator
from pathlib import Path

from autograder.errors import MachineError
from autograder.sandbox import kernel

__all__ = ["become_subreaper", "kill_all", "leftovers", "members", "memory_of", "new_uid"]

_LOWEST, _HIGHEST = 200_000_000, 2_000_000_000  # above what login, subuid and directory services hand out
_NOBODY = 65534
_PATIENCE = 5.0  # seconds; a killed process that the kernel holds longer is stuck in a device
_SHARED_FOLDERS = ("/tmp", "/var/tmp", "/dev/shm")  # noqa: S108  # these are what is to be cleaned
_DEEPEST = 64
_dice = random.SystemRandom()


def become_subreaper() -> None:
    """Make the calling process the parent of all orphans below it, so that it can reap them.

    Raises:
        OSError: the kernel refused.
    """
    kernel.prctl(kernel.PR_SET_CHILD_SUBREAPER, 1)


def new_uid() -> int:
    """A random user id, also free as a group id, that no process uses and no account has.

    Raises:
        MachineError: this container maps too few ids to choose from.
    """
    low, high = _mapped_range()
    used = {int(uid) for pid in kernel.processes() for uid in kernel.status(pid).get("Uid", "").split()}
    for _ in range(1000):
        uid = _dice.randrange(low, high)
        if uid not in used and uid != _NOBODY and not _has_account(uid):
            return uid
    raise MachineError(f"No free user id was found between {low} and {high}; end processes of earlier runs.")


def _mapped_range() -> tuple[int, int]:
    """The ids to choose from: the high range, or what a container with few ids has above its ordinary users."""
    limits = []
    for name in ("uid_map", "gid_map"):
        lines = Path(f"/proc/self/{name}").read_text(encoding="ascii").splitlines()
        limits.append(max((int(first) + int(count) for first, _, count in map(str.split, lines)), default=0))
    high = min(*limits, _HIGHEST)
    low = _LOWEST if high > _LOWEST + 1000 else high - high // 4
    if high < 20_000:
        raise MachineError(f"This container has only {high} user ids; start it with at least 65536.")
    return low, high


def _has_account(uid: int) -> bool:
    import pwd  # noqa: PLC0415  # does not exist on every system that reads this module

    try:
        pwd.getpwuid(uid)
    except KeyError:
        return False
    return True


def members(uid: int | None, session: int) -> list[int]:
    """Ids of the submission's live processes.

    Args:
        uid: its user id, or None where it has none of its own.
        session: its session's id, which is the template's process id; used where `uid` is None.
    """
    return sorted(pid for pid in kernel.processes() if _belongs(pid, uid, session) and _alive(pid))


def _belongs(pid: int, uid: int | None, session: int) -> bool:
    if uid is not None:
        return str(uid) in kernel.status(pid).get("Uid", "").split()
    try:
        return os.getsid(pid) == session
    except OSError:
        return False


def _alive(pid: int) -> bool:
    """Whether any thread lives; the first one may have ended long before the others."""
    return any(kernel.status(pid, task).get("State", "Z")[0] not in "ZX" for task in _tasks(pid))


def _tasks(pid: int) -> list[str]:
    try:
        return [entry.name for entry in Path(f"/proc/{pid}/task").iterdir()]
    except OSError:
        return []


def kill_all(uid: int | None, session: int) -> int:
    """Kill every process of a submission and wait until none is left.

    Args:
        uid: its user id, or None where it has none of its own.
        session: its session's id, which is the template's process id.

    Returns:
        How many survived 5 s: 0, unless the kernel holds one in a device.

    Raises:
        MachineError: the process that sends the signal could not take the submission's uid.
    """
    deadline = time.monotonic() + _PATIENCE
    pause = 0.001
    while left := members(uid, session):
        if uid is not None:
            _kill_uid(uid)
        else:
            _kill_session(session, left)
        if time.monotonic() > deadline:
            return len(members(uid, session))
        time.sleep(pause)
        pause = min(pause * 2, 0.05)
    return 0


def _kill_uid(uid: int) -> None:
    """Fork a helper that turns into the submission's uid and kills all that it may; the submission cannot signal it.

    Its effective uid is the submission's; real and saved are another free one. `kill(-1)` then reaches the processes of
    these two uids, spares the caller, and needs a caller without the right to signal everybody: that is verified.
    """
    other = new_uid()
    while other == uid:
        other = new_uid()
    helper = os.fork()
    if helper == 0:
        code = 1
        try:
            os.setgroups([])
            os.setresgid(other, other, other)
            os.setresuid(other, uid, other)
            rights = [int(kernel.status("self").get(name, "1"), 16) for name in ("CapEff", "CapPrm")]
            if os.getresuid() == (other, uid, other) and rights == [0, 0]:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(-1, signal.SIGKILL)
                code = 0
        finally:
            os._exit(code)
    if os.waitpid(helper, 0)[1] != 0:
        raise MachineError(f"The grader could not become uid {uid} to end its processes; run it as root.")


def _kill_session(session: int, pids: list[int]) -> None:
    """Signal the process group at once, then each process outside it, by a handle that cannot go stale."""
    if session in {_group(pid) for pid in pids}:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(session, signal.SIGKILL)
    for pid in pids:
        with contextlib.suppress(OSError):
            handle = os.pidfd_open(pid)
            try:
                if os.getsid(pid) == session:
                    signal.pidfd_send_signal(handle, signal.SIGKILL)
            finally:
                os.close(handle)


def _group(pid: int) -> int | None:
    try:
        return os.getpgid(pid)
    except OSError:
        return None


def memory_of(uid: int | None, session: int, inherited: int = 0) -> int:
    """Memory that a submission holds: anonymous and shared pages of all its processes, and its files in `/dev/shm`.

    Args:
        uid: its user id, or None where it has none of its own.
        session: its session's id, which is the template's process id; used where `uid` is None.
        inherited: bytes to take off per process, for pages that it shares with the zygote it was forked from.

    Returns:
        Bytes. Pages shared between two processes count twice. What one process overwrote of the inherited pages is not
        counted, so the sum may be low by `inherited` per process.
    """
    total = sum(max(0, _resident(pid) - inherited) for pid in members(uid, session))
    if uid is not None:
        with contextlib.suppress(OSError), os.scandir("/dev/shm") as entries:  # noqa: S108  # only its size is read
            total += sum(info.st_blocks * 512 for info in _infos(entries) if info.st_uid == uid)
    return total


def _infos(entries: Iterator["os.DirEntry[str]"]) -> Iterator[os.stat_result]:
    for entry in entries:
        with contextlib.suppress(OSError):
            yield entry.stat(follow_symlinks=False)


def _resident(pid: int) -> int:
    """Bytes of one process; a first thread that ended shows none, so any thread that does is asked."""
    for task in _tasks(pid):
        fields = kernel.status(pid, task)
        if "RssAnon" in fields:
            return sum(int(fields[name].split()[0]) * 1024 for name in ("RssAnon", "RssShmem"))
    return 0


def leftovers(uid: int) -> int:
    """Remove the files of a submission's uid from the folders that everybody may write to; call it after `kill_all`.

    Searched are `/tmp`, `/var/tmp`, `/dev/shm` and what lies in them in directories of this uid or open to everybody.
    Links are removed, never followed. Files of other users stay, also inside directories of this one.

    Args:
        uid: the submission's user id.

    Returns:
        How many files and directories were removed.
    """
    removed = 0
    for folder in _SHARED_FOLDERS:
        with contextlib.suppress(OSError):
            top = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            try:
                while some := _sweep(top, top, uid, 0):
                    removed += some
            finally:
                os.close(top)
    return removed


def _sweep(directory: int, top: int, uid: int, depth: int) -> int:
    """Remove what `uid` owns below the open `directory`; what lies too deep moves up to `top`, for the next sweep."""
    removed = 0
    for name in os.listdir(directory):
        with contextlib.suppress(OSError):
            info = os.stat(name, dir_fd=directory, follow_symlinks=False)
            owned = info.st_uid == uid
            if not stat.S_ISDIR(info.st_mode):
                if owned:
                    os.unlink(name, dir_fd=directory)
                    removed += 1
            elif owned and depth == _DEEPEST:
                os.rename(name, f".autograder-{_dice.getrandbits(64):x}", src_dir_fd=directory, dst_dir_fd=top)
            elif owned or info.st_mode & stat.S_IWOTH:
                below = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=directory)
                try:
                    removed += _sweep(below, top, uid, depth + 1)
                finally:
                    os.close(below)
                if owned:
                    os.rmdir(name, dir_fd=directory)
                    removed += 1
    return removed
