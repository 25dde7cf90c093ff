"""Layer 5: the process that grades. Started clean by `session.py`, it imports torch, forks the zygote, and only then hears what to grade.

    python -I -m autograder.worker <descriptor of a socket>

Its command line and environment hold nothing about the job, so the zygote, which is a copy of it, knows nothing either.
"""

import contextlib
import gc
import os
import socket
import sys
import threading
import traceback
from pathlib import Path

import torch
import torch.utils.data  # students' code imports it; once here, it costs no submission anything

from autograder.confined import wire
from autograder.sandbox import zygote

__all__ = ["main", "processors"]


def main() -> None:
    """Serve one session's jobs until its socket closes."""
    torch.set_num_threads(1)
    if threading.active_count() > 1 or not _alone():
        sys.exit("the grader has a second thread before its zygote is forked, which is not safe; please report this")
    jobs = socket.socket(fileno=int(sys.argv[1]))
    zygotes: dict[int, socket.socket] = {}
    for _ in range(2 if processors() >= 2 else 1):
        ours, theirs = socket.socketpair()
        pid = os.fork()
        if pid == 0:
            for other in (jobs, ours, *zygotes.values()):
                other.close()
            zygote.serve(theirs)
        theirs.close()
        zygotes[pid] = ours
    _serve(jobs, list(zygotes.values()))
    # Each sees its line close, ends what it started, and goes; nothing is to outlive the session.
    for pid, line in zygotes.items():
        line.close()
        os.waitpid(pid, 0)


def _alone() -> bool:
    try:
        return len(os.listdir("/proc/self/task")) == 1  # noqa: PTH208  # a count, not paths
    except OSError:
        return True  # no /proc on this system: Python's own count has to do


def processors() -> float:
    """How many processors this process may keep busy: what it is scheduled on, or less where a container's quota says so."""
    count = float(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
    for files in (("cpu.max",), ("cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us")):
        with contextlib.suppress(OSError, ValueError):
            quota, period = " ".join(Path("/sys/fs/cgroup", file).read_text() for file in files).split()
            if quota not in ("max", "-1"):
                count = min(count, int(quota) / int(period))
    return count


def _serve(jobs: socket.socket, lines: list[socket.socket]) -> None:
    # Imported only now: the zygote is to hold what student code may see, and no more.
    from autograder import errors  # noqa: PLC0415
    from autograder.grade import grade  # noqa: PLC0415
    from autograder.job import Failed, Finished, Job, Progress  # noqa: PLC0415
    from autograder.sandbox.launch import Sandbox  # noqa: PLC0415

    gc.freeze()  # what is imported stays: looking through it again and again takes time, and copies memory in a second lane
    sandboxes = [Sandbox(line) for line in lines]
    with contextlib.suppress(EOFError, OSError):
        while True:
            job, _ = wire.receive(jobs, Job)
            try:
                wire.send(jobs, Finished(grade(job, sandboxes, lambda report: wire.send(jobs, Progress(report)))))
            except errors.AutograderError as error:
                wire.send(jobs, Failed(type(error).__name__, str(error), traceback.format_exc()))
            except Exception as error:  # noqa: BLE001  # a fault of ours must reach the report
                sentence = f"The grader itself failed ({type(error).__name__}: {error}); please report this."
                wire.send(jobs, Failed("MachineError", sentence, traceback.format_exc()))


if __name__ == "__main__":
    main()
    sys.stdout.flush()
    os._exit(0)  # torch's own teardown takes a tenth of a second and serves nobody here
