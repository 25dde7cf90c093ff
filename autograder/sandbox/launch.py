"""Layer 2: the trusted side's hold on one confined submission: start it, open a channel per test, see how it ended, remove it."""

import collections
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
_AHEAD = 1
"""Children forked before their tests begin, while another test runs."""
_ZYGOTE_GONE = "The zygote that starts submissions is gone ({}); grade again."

_AnswerT = TypeVar("_AnswerT", Spawned, Ended)


class Sandbox:
    """The zygote, as the grader sees it."""

    def __init__(self, control: socket.socket) -> None:
        self._control = control

    def ask(self, order: Order, fd: int | None = None) -> None:
        """Give the zygote an order; `answer` waits for what came of it.

        Raises:
            MachineError: The zygote is gone.
        """
        try:
            wire.send(self._control, order, () if fd is None else (fd,), time.monotonic() + _ZYGOTE_SECONDS)
        except OSError as error:
            raise MachineError(_ZYGOTE_GONE.format(type(error).__name__)) from error

    def answer(self, kind: type[_AnswerT]) -> _AnswerT:
        """What came of the last order.

        Raises:
            MachineError: The zygote is gone, or could not do it.
        """
        try:
            answer, _ = wire.receive(self._control, Answer, time.monotonic() + _ZYGOTE_SECONDS)
        except (OSError, EOFError, wire.FrameError) as error:
            raise MachineError(_ZYGOTE_GONE.format(type(error).__name__)) from error
        if not isinstance(answer, kind):
            raise MachineError(f"The zygote could not do what it was asked: {getattr(answer, 'sentence', answer)}")
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
            if wire.waiting(self._sock):
                raise StudentForged("Your code wrote to the grader's own connection, so its answers cannot be trusted.")
            wire.send(self._sock, message, deadline=deadline)
            reply: wire.Reply = wire.receive(self._sock, wire.Reply, deadline)[0]
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
        folder: str,
        layers: tuple[str, ...] | None = None,
    ) -> None:
        self._sandbox = sandbox
        self._load = load
        self._limits = limits
        self._import_seconds = import_seconds
        self._wanted = LAYERS if layers is None else layers
        self._base = Path(tempfile.mkdtemp(prefix="submission-", dir=folder))
        self._uid = kill.new_uid() if "uid" not in walls.missing() and "uid" in self._wanted else None
        self._pid = 0
        self._child_pid = 0
        self._spawning = False
        self._sock: socket.socket | None = None
        self._spares: collections.deque[socket.socket] = collections.deque()
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
        """Lay the student's files out, readable to this submission's own group and to no other, writable to neither."""
        folder = self._base / "submission"
        folder.mkdir()
        for name, content in files.items():
            path = folder.joinpath(*PurePosixPath(name).parts)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        for path in (self._base, folder, *folder.rglob("*")):
            if self._uid is not None:
                os.chown(path, -1, self._uid)
            path.chmod(0o750 if path.is_dir() else 0o640)
        return str(folder)

    def prepare(self) -> None:
        """Have the walls built, without waiting for them; no student code runs yet.

        Raises:
            MachineError: The zygote is gone.
        """
        scratch = Path(tempfile.mkdtemp(prefix="scratch-", dir=self._base))
        if self._uid is not None:
            os.chown(scratch, self._uid, self._uid)
        policy = Policy(
            scratch=str(scratch), readable=(self._folder,), uid=self._uid, limits=self._limits, layers=self._wanted
        )
        self._sock, theirs = socket.socketpair()
        with theirs:
            self._sandbox.ask(Spawn(policy), theirs.fileno())
        self._spawning = True

    def enter(self) -> None:
        """Wait until the template stands behind its walls.

        Raises:
            MachineError: The template could not be started.
        """
        if self._sock is None:
            self.prepare()
        self._await_spawned()
        entered = self._receive(_ZYGOTE_SECONDS)
        if not isinstance(entered, wire.Done) or not isinstance(entered.value, wire.Mapping):
            reason = f"{entered.kind}: {entered.message}" if isinstance(entered, wire.Raised) else "its process died"
            raise MachineError(f"The walls around the submission could not be built ({reason}); run it again.")
        self.layers = {name: str(value) for name, value in zip(entered.value.keys, entered.value.values, strict=True)}

    def _await_spawned(self) -> None:
        if self._spawning:
            self._spawning = False
            self._pid = self._sandbox.answer(Spawned).pid

    def load(self) -> wire.Loaded | wire.Raised:
        """Import the student's module, in the template.

        Raises:
            StudentStopped: The process ended, or the import took too long.
            StudentForged: What came is not an answer.
            MachineError: The machine failed.
        """
        if self._pid == 0:
            self.enter()
        if self._sock is not None:
            with contextlib.suppress(OSError):
                load = wire.Load(self._folder, self._load.module, self._load.seed, self._load.tolerant)
                wire.send(self._sock, load, deadline=time.monotonic() + 5)
        reply = self._receive(self._import_seconds)
        if isinstance(reply, wire.Loaded | wire.Raised):
            return reply
        silent = self._last == ""
        self.end()
        if isinstance(reply, wire.Done):
            raise StudentForged("Your code answered for the grader while it was being imported.")
        reason = (
            f"it did not finish within {self._import_seconds:.3g} seconds" if silent else f"its process {self._last}"
        )
        raise StudentStopped(f"Importing your file failed: {reason}.", timed_out=silent)

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
        channel = Channel(self, ours, self._child_pid)
        channel.request(wire.Begin(seed, cpu_seconds), _FORK_SECONDS)
        return channel

    def _order_children(self) -> None:
        """Have the template fork children ahead; its answers are read as they are needed."""
        while self._sock is not None and len(self._spares) < _AHEAD:
            ours, theirs = socket.socketpair()
            self._spares.append(ours)
            with theirs, contextlib.suppress(OSError):
                wire.send(self._sock, wire.Fork(), (theirs.fileno(),), time.monotonic() + 5)

    def _take_child(self) -> socket.socket:
        self._order_children()
        if not self._spares:
            raise MachineError("No process could be asked for a child; grade again.")
        ours = self._spares.popleft()
        reply = self._receive(_FORK_SECONDS)
        self._order_children()
        if isinstance(reply, wire.Done) and isinstance(reply.value, int):
            self._child_pid = reply.value
            return ours
        ours.close()
        self.end()
        raise StudentStopped(f"After your file was imported, its process {self._last or 'hung'}.")

    def _receive(self, seconds: float) -> wire.Reply | None:
        """One frame from the template, or None: then `_last` says how it ended, and is empty if it is merely silent."""
        self._last = ""
        if self._sock is None:
            return None
        try:
            reply: wire.Reply = wire.receive(self._sock, wire.Reply, time.monotonic() + seconds)[0]
        except TimeoutError:
            return None
        except (EOFError, OSError, wire.FrameError) as error:
            self.end()
            self._last = self._last or f"broke off ({type(error).__name__})"
            return None
        return reply

    def how_it_ended(self, pid: int) -> str:
        """Why a test's child closed its line, in a sentence; its template is asked, so this is a claim like any other."""
        deadline = time.monotonic() + 2.0
        while self._sock is not None and time.monotonic() < deadline:
            while self._spares:
                self._spares.popleft().close()
                if self._receive(_FORK_SECONDS) is None:
                    break
            with contextlib.suppress(OSError):
                wire.send(self._sock, wire.Reap(pid), deadline=deadline)
            reply = self._receive(2.0)
            if isinstance(reply, wire.Done) and isinstance(reply.value, int):
                return f"Your code's process {_status(reply.value, self._limits)}."
            time.sleep(0.01)
        self.end()
        return f"Your code's process {self._last or 'closed its connection to the grader'}."

    def end(self) -> None:
        """Kill all that the submission started. Another test starts it anew."""
        while self._spares:
            self._spares.popleft().close()
        if self._sock is not None:
            self._sock.close()
            self._sock = None
        self._await_spawned()
        if self._pid:
            self._pid = 0
            self._sandbox.ask(End())
            ended = self._sandbox.answer(Ended)
            self.printed = (self.printed + ended.printed)[: 64 << 10]
            if ended.survivors:
                raise MachineError(
                    f"{ended.survivors} processes of the submission could not be killed; restart the grader"
                )
            self._last = _status(ended.status, self._limits, ended.memory_mb)


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
