"""What the sandbox's selftests share: a place to act in, and a way to try something inside chosen walls."""

import errno
import json
import os
import select
import shutil
import signal
import socket
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from autograder.sandbox import kill, walls
from autograder.sandbox.policy import LAYERS, Limits, Policy

SMALL = Limits(cpu_seconds=1, memory_mb=100, processes=16, file_mb=1, open_files=32)
Outcome = tuple[str, Any]

collect_ignore_glob = [] if sys.platform.startswith("linux") else ["test_*.py"]


@dataclass(frozen=True)
class Stage:
    """Folders and files to reach for, a socket to connect to, and the uid of the submission (None where not root)."""

    base: Path
    scratch: Path
    granted: Path
    private: Path
    world_readable: Path
    world_writable: Path
    port: int
    descriptor: int
    uid: int | None
    parent: int

    def policy(self, layers: tuple[str, ...] = LAYERS, limits: Limits = SMALL) -> Policy:
        """A policy on this stage."""
        return Policy(
            scratch=str(self.scratch), readable=(str(self.granted),), uid=self.uid, layers=layers, limits=limits
        )

    def attempt(self, act: Callable[["Stage"], Any], policy: Policy | None = None) -> Outcome:
        """Do `act` in a confined fork; ("done", value), ("refused", error's name) or ("died", signal's name)."""
        with walls.prepare(policy or self.policy()) as prepared:
            receiver, sender = os.pipe()
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)  # other tests may have left threads in this process
                pid = os.fork()
            if pid == 0:
                _confined(prepared, self, act, sender)
            os.close(sender)
        line = _line(receiver)
        assert kill.kill_all(None if "uid" in prepared.missing else self.uid, pid) == 0
        status = os.waitpid(pid, 0)[1]
        if line:
            kind, value = json.loads(line)
            return kind, value
        return "died", signal.Signals(os.WTERMSIG(status)).name if os.WIFSIGNALED(status) else status


def _confined(prepared: walls.Prepared, stage: Stage, act: Callable[[Stage], Any], sender: int) -> None:
    try:
        walls.enter(prepared, (sender,))
        result: Outcome = ("done", act(stage))
    except OSError as error:
        result = ("refused", errno.errorcode[error.errno or 0])
    except MemoryError:
        result = ("refused", "MemoryError")
    except BaseException as error:  # noqa: BLE001  # whatever it is, it ends here and is told
        result = ("broken", repr(error))
    os.write(sender, json.dumps(result).encode() + b"\n")
    os._exit(0)


def _line(receiver: int) -> bytes:
    """What the fork says; its own children may hold the pipe open, so the end is the line's and not the file's."""
    line = b""
    while not line.endswith(b"\n") and select.select([receiver], [], [], 30)[0]:
        if not (some := os.read(receiver, 65536)):
            break
        line += some
    os.close(receiver)
    return line


@pytest.fixture
def stage() -> Iterator[Stage]:
    """A stage whose folders any user can walk to, unlike pytest's own."""
    base = Path(tempfile.mkdtemp(prefix="autograder-selftest-", dir="/tmp"))
    uid = kill.new_uid() if os.geteuid() == 0 else None
    folders = {name: base / name for name in ("scratch", "granted", "open", "shared")}
    for folder in folders.values():
        folder.mkdir()
    private, readable = folders["granted"] / "private.txt", folders["open"] / "readable.txt"
    private.write_text("private")
    readable.write_text("readable")
    for path, mode in ((base, 0o755), (folders["scratch"], 0o700), (private, 0o600), (folders["shared"], 0o777)):
        path.chmod(mode)
    if uid is not None:
        os.chown(folders["scratch"], uid, uid)
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield Stage(
            base=base,
            scratch=folders["scratch"],
            granted=folders["granted"],
            private=private,
            world_readable=readable,
            world_writable=folders["shared"],
            port=server.getsockname()[1],
            descriptor=server.fileno(),
            uid=uid,
            parent=os.getpid(),
        )
    shutil.rmtree(base)
