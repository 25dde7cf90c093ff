"""Layer 4: start a worker process. It imports next to nothing, so that a worker can load torch while the rest of a command line loads."""

import socket
import subprocess
import sys

__all__ = ["Worker", "start", "take"]

_ENVIRONMENT = {
    "PATH": "/usr/local/bin:/usr/bin:/bin",
    "LANG": "C.UTF-8",
    "USER": "student",
    "LOGNAME": "student",
    # One thread each: a process with more cannot be forked safely.
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MALLOC_ARENA_MAX": "2",
    # The same submission and seed give the same report.
    "PYTHONHASHSEED": "0",
    "TORCHDYNAMO_DISABLE": "1",
    # Verdicts must not depend on the machine: the tests of the gpu aspect, and no others, make the GPU visible again.
    "CUDA_VISIBLE_DEVICES": "",
    # Asks the driver's library whether there is a GPU, without starting CUDA, which would not survive a fork.
    "PYTORCH_NVML_BASED_CUDA_CHECK": "1",
}


Worker = tuple[socket.socket, "subprocess.Popen[bytes]"]

_started: list[Worker] = []


def start() -> None:
    """Start a worker now, for the next that asks for one."""
    _started.append(_start())


def take() -> Worker:
    """The worker that was started ahead, or else a new one: the line to it, and its process."""
    return _started.pop() if _started else _start()


def _start() -> Worker:
    ours, theirs = socket.socketpair()
    with theirs:
        process = subprocess.Popen(
            [sys.executable, "-I", "-m", "autograder.worker", str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            env=_ENVIRONMENT,
            cwd="/",
            stdin=subprocess.DEVNULL,
            # a Ctrl-C at the terminal is for this process, which then ends the worker in order
            start_new_session=True,
        )
    return ours, process
