"""Layer 5: the process that grades. Started clean by `session.py`, it imports torch, forks the zygote, and only then hears what to grade.

    python -I -m autograder.worker <descriptor of a socket>

Its command line and environment hold nothing about the job, so the zygote, which is a copy of it, knows nothing either.
"""

import contextlib
import os
import socket
import sys
import threading
import traceback

import torch
import torch.utils.data  # students' code imports it; once here, it costs no submission anything

from autograder.confined import wire
from autograder.sandbox import zygote

__all__ = ["main"]


def main() -> None:
    """Serve one session's jobs until its socket closes."""
    torch.set_num_threads(1)
    if threading.active_count() > 1 or not _alone():
        sys.exit("the grader has a second thread before its zygote is forked, which is not safe; please report this")
    jobs = socket.socket(fileno=int(sys.argv[1]))
    ours, theirs = socket.socketpair()
    pid = os.fork()
    if pid == 0:
        jobs.close()
        ours.close()
        zygote.serve(theirs)
    theirs.close()
    with ours:
        _serve(jobs, ours)
    # It sees its line close, ends what it started, and goes; nothing is to outlive the session.
    os.waitpid(pid, 0)


def _alone() -> bool:
    try:
        return len(os.listdir("/proc/self/task")) == 1  # noqa: PTH208  # a count, not paths
    except OSError:
        return True  # no /proc on this system: Python's own count has to do


def _serve(jobs: socket.socket, control: socket.socket) -> None:
    # Imported only now: the zygote is to hold what student code may see, and no more.
    from autograder import errors  # noqa: PLC0415
    from autograder.grade import grade  # noqa: PLC0415
    from autograder.job import Failed, Finished, Job, Progress  # noqa: PLC0415
    from autograder.sandbox.launch import Sandbox  # noqa: PLC0415

    sandbox = Sandbox(control)
    with contextlib.suppress(EOFError, OSError):
        while True:
            job, _ = wire.receive(jobs, Job)
            try:
                wire.send(jobs, Finished(grade(job, sandbox, lambda report: wire.send(jobs, Progress(report)))))
            except errors.AutograderError as error:
                wire.send(jobs, Failed(type(error).__name__, str(error), traceback.format_exc()))
            except Exception as error:  # noqa: BLE001  # a fault of ours must reach the report
                sentence = f"The grader itself failed ({type(error).__name__}: {error}); please report this."
                wire.send(jobs, Failed("MachineError", sentence, traceback.format_exc()))


if __name__ == "__main__":
    main()
    sys.stdout.flush()
    os._exit(0)  # torch's own teardown takes a tenth of a second and serves nobody here
