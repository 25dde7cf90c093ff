"""Layer 2: the walls around a submission, prepared in the zygote and entered by the template before student code runs.

    prepared = walls.prepare(policy)      # zygote: whatever may fail or takes time
    if os.fork() == 0:
        stands = walls.enter(prepared, keep=(channel,))
        ...                               # student code, and a fork of it for each test

Five layers, each of which `prepare` may find impossible on this machine; `Prepared.missing` then says why, and the
caller decides whether what stands is enough. A layer that was prepared and cannot be entered is a `MachineError`.
The template always gets a session of its own and dies with the zygote, and no process of it can be dumped or traced.

What is left with all layers standing: the number of files (not their size) in the scratch directory, the names of
files anywhere (`stat` works), the processor's time that 32 processes share, and of the kernel whatever the allowed
calls reach. Where the grader is not root, the submission has its user: Landlock and seccomp are then what keeps it
from the grader's files and processes, and the grader must make itself undumpable (`protect`).
"""

import contextlib
import os
import resource
import signal
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from autograder.errors import MachineError
from autograder.sandbox import kernel, landlock, reach, seccomp
from autograder.sandbox.policy import LAYERS, Limits, Policy

if TYPE_CHECKING:
    from landlockpy import Ruleset

__all__ = ["Prepared", "die_with_parent", "enter", "missing", "prepare", "protect", "standing"]

_MIB = 1 << 20
_STACK = 64 * _MIB
_CAP_SETGID, _CAP_SETUID = 6, 7


@dataclass(frozen=True)
class Prepared:
    """Walls that are ready to be entered by one process, forked from the one that prepared them.

    Attributes:
        policy: what they were built from.
        parent: the preparing process.
        missing: layer to the reason why it will not stand.
        handles: directories of Python that the submission's uid cannot walk to, already in use.
        opened: such directories, opened for this one process, which puts them to use.
        ruleset: Landlock's rules.
        filters: seccomp's filters.
    """

    policy: Policy
    parent: int
    missing: dict[str, str]
    handles: tuple[reach.Handle, ...] = ()
    opened: tuple[reach.Handle, ...] = ()
    ruleset: "Ruleset | None" = field(default=None, repr=False)
    filters: seccomp.Filters | None = field(default=None, repr=False)

    def close(self) -> None:
        """Close the descriptors in the zygote, after the fork."""
        if self.ruleset is not None:
            self.ruleset.close()
        for handle in self.opened:
            with contextlib.suppress(OSError):
                os.close(handle.fd)

    def __enter__(self) -> "Prepared":  # Self is not in the library of Python 3.10
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


def missing() -> dict[str, str]:
    """Layers that cannot stand on this machine, each with the reason; for `doctor`, and to refuse to grade."""
    if not sys.platform.startswith("linux"):
        return dict.fromkeys(LAYERS, f"the walls are Linux's, and this system is {sys.platform}")
    reasons = {}
    if os.geteuid() != 0:
        reasons["uid"] = "the grader is not root, so a submission runs as the grader's own user"
    elif not _may_change_user():
        reasons["uid"] = "this root lacks the rights CAP_SETUID and CAP_SETGID"
    if not landlock.abi():
        reasons["landlock"] = "this kernel or container has no Landlock"
    if reason := seccomp.why_missing():
        reasons["seccomp"] = reason
    return reasons


def standing() -> dict[str, str]:
    """Layers that can stand on this machine, each with what it would be; the complement of `missing`."""
    possible = {
        "descriptors": "closed but for the channel",
        "rlimits": "per process",
        "uid": "one per submission",
        "landlock": f"ABI {landlock.abi()}" if sys.platform.startswith("linux") else "",
        "seccomp": "allow-list",
    }
    lacking = missing()
    return {layer: words for layer, words in possible.items() if layer not in lacking}


def _may_change_user() -> bool:
    effective = int(kernel.status("self").get("CapEff", "0"), 16)
    return bool(effective >> _CAP_SETGID & 1 and effective >> _CAP_SETUID & 1)


def protect() -> None:
    """Keep processes of the same user from reading the calling process's memory; for the zygote and the grader.

    Raises:
        OSError: the kernel refused.
    """
    kernel.prctl(kernel.PR_SET_DUMPABLE, 0)


def die_with_parent() -> None:
    """Have the kernel kill the calling process when its parent ends; for a process of the grader that it forked."""
    if sys.platform.startswith("linux"):
        kernel.prctl(kernel.PR_SET_PDEATHSIG, signal.SIGKILL)


def prepare(policy: Policy, handles: tuple[reach.Handle, ...] | None = None) -> Prepared:
    """Build, in the zygote, all that may fail or takes time. One `Prepared` serves one fork; then close it.

    Args:
        policy: what the submission may do. Its scratch directory exists and belongs to `policy.uid`.
        handles: what `reach.open_handles` gave, where the calling process has put them to use. Without them, each
            `Prepared` opens its own and `enter` puts them to use, which takes longer.

    Raises:
        MachineError: a wall that this machine has cannot be built.
    """
    reasons = missing()
    if policy.uid is None:
        reasons.setdefault("uid", "the policy names no uid")
    reasons |= dict.fromkeys(set(LAYERS) - set(policy.layers), "the policy leaves it out")
    own_uid = "uid" not in reasons
    confined = own_uid or ("landlock" not in reasons and landlock.scopes_signals())
    filters = None if "seccomp" in reasons else seccomp.build(own_uid=own_uid, signals_confined=confined)
    ruleset = None if "landlock" in reasons else landlock.build(policy)
    try:
        opened = reach.open_handles() if own_uid and handles is None else ()
    except OSError as error:
        if ruleset is not None:
            ruleset.close()
        raise MachineError(f"Python's library {error.filename!r} cannot be opened ({error.strerror}).") from error
    return Prepared(policy, os.getpid(), reasons, handles or (), opened, ruleset, filters)


def enter(prepared: Prepared, keep: tuple[int, ...]) -> dict[str, str]:
    """Put the walls around the calling process and all that it will fork; there is no way back.

    The caller is a fresh fork of the process that prepared, and has one thread. Python objects that own a descriptor
    which is closed here must not be used, nor collected, afterwards. Standard input, output and error stay as they are.

    Args:
        prepared: the walls.
        keep: descriptors to keep besides 0, 1 and 2.

    Returns:
        Layer to what stands, such as `{"landlock": "ABI 7", "uid": "1234567"}`. A missing layer is absent.

    Raises:
        MachineError: a wall could not be entered, or the process has several threads. Student code must not run.
    """
    if (threads := sum(1 for _ in Path("/proc/self/task").iterdir())) != 1:
        raise MachineError(
            f"The walls hold one thread, and this process has {threads}; fork it from a process with one."
        )
    policy, lacking = prepared.policy, prepared.missing
    stands = {}
    try:
        os.setsid()
        os.umask(0o077)
        tempfile.tempdir = policy.scratch  # the zygote may have looked for another place already
        _die_with(prepared.parent)
        if "descriptors" not in lacking:
            stands["descriptors"] = _close_others(prepared, keep)
        if "rlimits" not in lacking:
            stands["rlimits"] = _limit(policy.limits, own_uid="uid" not in lacking)
        if policy.uid is not None and "uid" not in lacking:
            stands["uid"] = _become(policy.uid)
            _die_with(prepared.parent)  # the change of user took it back
            reach.use_handles(prepared.opened)
        kernel.prctl(kernel.PR_SET_DUMPABLE, 0)
        kernel.prctl(kernel.PR_SET_NO_NEW_PRIVS, 1)
        if prepared.ruleset is not None:
            stands["landlock"] = landlock.enforce(prepared.ruleset)
        if prepared.filters is not None:
            stands["seccomp"] = seccomp.enforce(prepared.filters)
    except (OSError, ValueError) as error:
        raise MachineError(f"The walls could not be entered ({error}); run `autograder doctor`.") from error
    return stands


def _die_with(parent: int) -> None:
    kernel.prctl(kernel.PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it ended before the kernel was asked to watch it
        raise MachineError(f"The zygote (process {parent}) is gone; start it again.")


def _close_others(prepared: Prepared, keep: tuple[int, ...]) -> str:
    kept = {0, 1, 2, *keep, *(handle.fd for handle in prepared.handles + prepared.opened)}
    if prepared.ruleset is not None:
        kept.add(prepared.ruleset.fileno())
    others = {int(entry.name) for entry in Path("/proc/self/fd").iterdir()} - kept
    for descriptor in others:
        with contextlib.suppress(OSError):  # one of them was the listing itself
            os.close(descriptor)
    return f"{len(keep)} kept"


def _limit(limits: Limits, *, own_uid: bool) -> str:
    """Set the limits of this process, which its children inherit and none can raise."""
    with contextlib.suppress(OSError):  # when the machine runs out of memory, the submission goes first
        Path("/proc/self/oom_score_adj").write_text("1000", encoding="ascii")
    # Private memory rather than address space: threads and CUDA reserve far more than they use.
    held = int(kernel.status("self")["VmData"].split()[0]) * 1024
    _cap(resource.RLIMIT_DATA, held + limits.memory_mb * _MIB)
    _cap(resource.RLIMIT_STACK, min(_STACK, resource.getrlimit(resource.RLIMIT_STACK)[0] % (1 << 63)), _STACK)
    _cap(resource.RLIMIT_CPU, limits.cpu_seconds, limits.cpu_seconds + 2)
    _cap(resource.RLIMIT_FSIZE, limits.file_mb * _MIB)
    _cap(resource.RLIMIT_NOFILE, limits.open_files)
    # The kernel counts per user: a user who also runs the grader has some besides this process.
    _cap(resource.RLIMIT_NPROC, limits.processes + (0 if own_uid else _tasks_of(os.getuid()) - 1))
    _cap(resource.RLIMIT_CORE, 0)
    _cap(resource.RLIMIT_MSGQUEUE, 0)
    _cap(resource.RLIMIT_MEMLOCK, 64 * 1024)
    return f"{limits.memory_mb} MiB, {limits.cpu_seconds} s, {limits.processes} processes"


def _cap(which: int, soft: int, hard: int | None = None) -> None:
    """Set a limit, or keep the present one where that is lower."""
    present = resource.getrlimit(which)[1]
    most = soft if hard is None else hard
    if present != resource.RLIM_INFINITY:
        most = min(most, present)
    resource.setrlimit(which, (min(soft, most), most))


def _tasks_of(uid: int) -> int:
    """Threads of all processes of a user that can be seen from here; those of other containers cannot."""
    count = 0
    for pid in kernel.processes():
        fields = kernel.status(pid)
        if fields.get("Uid", "").split()[:1] == [str(uid)]:
            count += int(fields.get("Threads", "0"))
    return count


def _become(uid: int) -> str:
    """Take a user and group id for good, and verify that no right and no other id is left."""
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)
    fields = kernel.status("self")
    rights = {fields.get(name) for name in ("CapInh", "CapPrm", "CapEff", "CapAmb")}
    if os.getresuid() != (uid,) * 3 or os.getresgid() != (uid,) * 3 or os.getgroups() or rights != {"0" * 16}:
        raise MachineError(f"Rights are left after becoming user {uid}; start the grader without inheritable rights.")
    return str(uid)
