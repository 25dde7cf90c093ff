"""Layer 2: the trusted side's hold on one confined submission: start it, open a channel per test, see how it ended, remove it."""

import contextlib
import os
import shutil
import signal
import socket
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import TypeVar

from autograder.confined import wire
from autograder.errors import MachineError, StudentForged, StudentStopped
from autograder.sandbox import kill, walls
from autograder.sandbox.policy import LAYERS, Limits, Policy
from autograder.sandbox.zygote import Answer, End, Ended, Order, Spawn, Spawned

__all__ = ["Channel", "Confinement", "Sandbox"]

_ZYGOTE_SECONDS = 30.0
"""How long the zygote, which is ours, may take to answer; past it the machine is at fault."""
_FORK_SECONDS = 10.0

_AnswerT = TypeVar("_AnswerT", Spawned, Ended)


class Sandbox:
    """The zygote, as the grader sees it."""

    def __init__(self, control: socket.socket) -> None:
        self._control = control

    def order(self, order: Order, kind: type[_AnswerT], fd: int | None = None) -> _AnswerT:
        """Have the zygote do something.

        Raises:
            MachineError: It is dead, or could not.
        """
        deadline = time.monotonic() + _ZYGOTE_SECONDS
        try:
            wire.send(self._control, order, () if fd is None else (fd,), deadline)
            answer, _ = wire.receive(self._control, Answer, deadline)
        except (OSError, EOFError, wire.FrameError) as error:
            raise MachineError(
                f"the zygote that starts submissions is gone ({type(error).__name__}); grade again"
            ) from error
        if not isinstance(answer, kind):
            raise MachineError(f"a submission could not be started: {getattr(answer, 'sentence', answer)}")
        return answer


class Channel:
    """One test's line to its own child process."""

    def __init__(self, confinement: "Confinement", sock: socket.socket, pid: int) -> None:
        self._confinement = confinement
        self._sock = sock
        self._pid = pid

    def request(self, message: wire.ToChild, seconds: float) -> wire.Done | wire.Raised:
        """Ask, and wait for the answer.

        Args:
            message: What to do.
            seconds: How long the answer may take, from now.

        Raises:
            StudentStopped: The process ended, or did not answer in time.
            StudentForged: What came is not an answer to this question.
        """
        deadline = time.monotonic() + seconds
        try:
            if self._unasked():
                raise StudentForged("Your code wrote to the grader's own connection, so its answers cannot be trusted.")
            wire.send(self._sock, message, deadline=deadline)
            reply, _ = wire.receive(self._sock, wire.Reply, deadline)
        except TimeoutError:
            self._confinement.end()
            raise StudentStopped(f"Your code did not finish within {seconds:.3g} seconds.", timed_out=True) from None
        except wire.FrameError:
            self._confinement.end()
            raise StudentForged("Your code sent the grader something that is not an answer.") from None
        except (EOFError, OSError):
            raise StudentStopped(self._confinement.how_it_ended(self._pid)) from None
        if isinstance(reply, wire.Loaded):
            raise StudentForged("Your code answered a question that was not asked.")
        return reply

    def _unasked(self) -> bool:
        self._sock.setblocking(False)
        try:
            return bool(self._sock.recv(1, socket.MSG_PEEK))
        except BlockingIOError:
            return False

    def close(self) -> None:
        """The test is over: the child exits when its line closes."""
        self._sock.close()


class Confinement:
    """One submission behind its walls. A context manager: leaving it kills every process and removes every file.

    Attributes:
        layers: Which walls stand, by name, each with what it came to.
        printed: What the submission wrote to stdout and stderr, known once a template has ended.
    """

    def __init__(
        self,
        sandbox: Sandbox,
        files: Mapping[str, bytes],
        load: wire.Load,
        limits: Limits,
        import_seconds: float,
        layers: tuple[str, ...] | None = None,
    ) -> None:
        self._sandbox = sandbox
        self._load = load
        self._limits = limits
        self._import_seconds = import_seconds
        self._wanted = LAYERS if layers is None else frozenset(layers)
        self._base = Path(tempfile.mkdtemp(prefix="autograder-"))
        self._uid = kill.new_uid() if "uid" not in walls.missing() and "uid" in self._wanted else None
        self._pid = 0
        self._sock: socket.socket | None = None
        self._spare: socket.socket | None = None
        self._import_failure: wire.Raised | None = None
        self._last = ""
        self.layers: dict[str, str] = {}
        self.printed = ""
        self._folder = self._write(files)

    def __enter__(self) -> "Confinement":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.end()
        finally:
            shutil.rmtree(self._base, ignore_errors=True)

    def _write(self, files: Mapping[str, bytes]) -> str:
        """Lay the student's files out, readable to the confined side and writable to nobody there."""
        self._base.chmod(0o711)
        folder = self._base / "submission"
        folder.mkdir(mode=0o755)
        for name, content in files.items():
            path = folder.joinpath(*PurePosixPath(name).parts)
            path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
            path.write_bytes(content)
            path.chmod(0o644)
        return str(folder)

    def start(self) -> None:
        """Build the walls and wait behind them; no student code runs yet.

        Raises:
            MachineError: The template could not be started.
        """
        scratch = Path(tempfile.mkdtemp(prefix="scratch-", dir=self._base))
        if self._uid is not None:
            os.chown(scratch, self._uid, self._uid)
        policy = Policy(
            scratch=str(scratch), readable=(self._folder,), uid=self._uid, limits=self._limits, layers=self._wanted
        )
        ours, theirs = socket.socketpair()
        try:
            self._pid = self._sandbox.order(Spawn(policy), Spawned, theirs.fileno()).pid
        finally:
            theirs.close()
        self._sock = ours
        entered = self._receive(wire.Reply, _ZYGOTE_SECONDS)
        if not isinstance(entered, wire.Done) or not isinstance(entered.value, wire.Mapping):
            reason = f"{entered.kind}: {entered.message}" if isinstance(entered, wire.Raised) else "its process died"
            raise MachineError(f"the walls around the submission could not be built ({reason})")
        self.layers = {name: str(value) for name, value in zip(entered.value.keys, entered.value.values, strict=True)}

    def load(self) -> wire.Loaded | wire.Raised:
        """Import the student's module, in the template.

        Raises:
            StudentStopped: The process ended, or the import took too long.
            StudentForged: What came is not an answer.
        """
        if self._sock is None:
            self.start()
        if self._sock is None:
            raise MachineError("the submission's process ended before it was asked anything; grade again")
        with contextlib.suppress(OSError):
            wire.send(self._sock, msg_with_folder(self._load, self._folder), deadline=time.monotonic() + 5)
        reply = self._receive(wire.Reply, self._import_seconds)
        if isinstance(reply, wire.Done) or reply is None:
            timed_out = reply is None and self._last == ""
            self.end()
            if isinstance(reply, wire.Done):
                raise StudentForged("Your code answered for the grader while it was being imported.")
            sentence = self._last or f"it did not finish within {self._import_seconds:.3g} seconds"
            raise StudentStopped(f"Importing your file failed: {sentence}.", timed_out=timed_out)
        self._import_failure = reply if isinstance(reply, wire.Raised) else None
        return reply

    def open_test(self, seed: int, cpu_seconds: int) -> Channel:
        """A channel to a child forked for this test; the next test's child is forked meanwhile.

        Raises:
            StudentStopped: No child could be had, because of what the student's module did.
            StudentForged: The template answers with nonsense.
            MachineError: The machine failed.
        """
        if self._sock is None:
            loaded = self.load()
            if isinstance(loaded, wire.Raised):
                raise StudentStopped(f"Importing your file again failed: {loaded.kind}: {loaded.message}")
        ours = self._take_child()
        self._order_child()
        channel = Channel(self, ours, self._child_pid)
        channel.request(wire.Begin(seed, cpu_seconds), _FORK_SECONDS)
        return channel

    def _order_child(self) -> None:
        """Have the template fork; its answer is read when the child is needed."""
        if self._sock is None:
            return
        ours, theirs = socket.socketpair()
        with contextlib.suppress(OSError):
            wire.send(self._sock, wire.Fork(), (theirs.fileno(),), time.monotonic() + 5)
        theirs.close()
        self._spare = ours

    _child_pid = 0

    def _take_child(self) -> socket.socket:
        if self._spare is None:
            self._order_child()
        if self._spare is None:
            raise MachineError("no process could be asked for; grade again")
        ours, self._spare = self._spare, None
        reply = self._receive(wire.Reply, _FORK_SECONDS)
        if isinstance(reply, wire.Done) and isinstance(reply.value, int):
            self._child_pid = reply.value
            return ours
        ours.close()
        self.end()
        raise StudentStopped(
            f"Your file's process stopped answering after it was imported: {self._last or 'it hangs'}."
        )

    def _receive(self, kind: type[wire._T], seconds: float) -> wire._T | None:
        """One frame from the template, or None: then `_last` says how it ended, and is empty if it is merely silent."""
        self._last = ""
        if self._sock is None:
            return None
        try:
            return wire.receive(self._sock, kind, time.monotonic() + seconds)[0]
        except TimeoutError:
            return None
        except (EOFError, OSError, wire.FrameError) as error:
            self.end()
            self._last = self._last or f"its process broke off ({type(error).__name__})"
            return None

    def how_it_ended(self, pid: int) -> str:
        """Why a test's child closed its line, in a sentence; its template is asked, so this is a claim like any other."""
        deadline = time.monotonic() + 2.0
        while self._sock is not None and time.monotonic() < deadline:
            if self._spare is not None:
                self._spare.close()
                self._spare = None
                if self._receive(wire.Reply, _FORK_SECONDS) is None:
                    break
            with contextlib.suppress(OSError):
                wire.send(self._sock, wire.Reap(pid), deadline=deadline)
            reply = self._receive(wire.Reply, 2.0)
            if isinstance(reply, wire.Done) and isinstance(reply.value, int):
                return f"Your code's process {_status(reply.value, self._limits)}."
            time.sleep(0.01)
        self.end()
        return f"Your code's process ended: {self._last or 'it closed its connection'}."

    def end(self) -> None:
        """Kill all that the submission started. Another test starts it anew."""
        if self._spare is not None:
            self._spare.close()
            self._spare = None
        if self._sock is not None:
            self._sock.close()
            self._sock = None
        if self._pid:
            pid, self._pid = self._pid, 0
            ended = self._sandbox.order(End(pid), Ended)
            self.printed = (self.printed + ended.printed)[: 64 << 10]
            if ended.survivors:
                raise MachineError(
                    f"{ended.survivors} processes of the submission could not be killed; restart the grader"
                )
            self._last = _status(ended.status, self._limits, ended.memory_mb)


def msg_with_folder(load: wire.Load, folder: str) -> wire.Load:
    """The request to import, for the folder that the files were laid out in."""
    return wire.Load(folder, load.module, load.seed, load.tolerant)


def _status(status: int, limits: Limits, memory_mb: int = 0) -> str:
    """How a process ended, from its `waitpid` status, as the rest of a sentence."""
    if memory_mb:
        return f"was ended because it held {memory_mb} MB of memory (the limit is {limits.memory_mb} MB)"
    if os.WIFEXITED(status):
        return f"exited with code {os.WEXITSTATUS(status)} (does it call `exit`, `quit` or `os._exit`?)"
    number = os.WTERMSIG(status)
    if number == signal.SIGXCPU:
        return "used more CPU time than it may"
    if number == signal.SIGSEGV:
        return "crashed (segmentation fault)"
    return f"was ended by signal {number} ({signal.strsignal(number)})"
