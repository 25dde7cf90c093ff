"""Layer 2, bottom: the few questions and requests to the Linux kernel that Python has no name for."""

import ctypes
import functools
import os
from collections.abc import Iterator
from pathlib import Path

__all__ = [
    "PR_SET_CHILD_SUBREAPER",
    "PR_SET_DUMPABLE",
    "PR_SET_NO_NEW_PRIVS",
    "PR_SET_PDEATHSIG",
    "load_filter",
    "prctl",
    "processes",
    "status",
]

PR_SET_PDEATHSIG = 1
PR_SET_DUMPABLE = 4
PR_SET_CHILD_SUBREAPER = 36
PR_SET_NO_NEW_PRIVS = 38
_PR_SET_SECCOMP = 22
_SECCOMP_MODE_FILTER = 2


@functools.cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_char_p))


def load_filter(program: bytes) -> None:
    """Put a system-call filter around the calling process, which has `no_new_privs` set.

    Args:
        program: instructions of the Berkeley packet filter, 8 bytes each.

    Raises:
        OSError: the kernel refused.
    """
    kept = _Program(len(program) // 8, program)  # alive until the kernel has copied it
    prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.addressof(kept))


def prctl(option: int, *values: int) -> None:
    """Set one attribute of the calling process.

    Args:
        option: one of the PR_SET constants of this module.
        values: its new value, and more where the option takes more; 4 at most.

    Raises:
        OSError: the kernel refused.
    """
    arguments = [ctypes.c_ulong(value) for value in (*values, 0, 0, 0, 0)[:4]]
    if _libc().prctl(ctypes.c_int(option), *arguments) != 0:
        error = ctypes.get_errno()
        raise OSError(error, f"prctl({option}): {os.strerror(error)}")


def status(process: int | str, task: int | str | None = None) -> dict[str, str]:
    """Fields of `/proc/<process>/status`, or of one of its tasks (threads).

    Args:
        process: a process id, or "self".
        task: a thread's id, or None for the whole process.

    Returns:
        Field to its text, such as "VmData" to "1234 kB"; empty when the process is gone.
    """
    path = f"/proc/{process}/status" if task is None else f"/proc/{process}/task/{task}/status"
    try:
        lines = Path(path).read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return {}
    return {name: text.strip() for name, _, text in (line.partition(":") for line in lines)}


def processes() -> Iterator[int]:
    """Ids of all processes that this one can see."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            yield int(entry.name)
