"""Layer 2: the zygote, forked before anything secret is loaded: it forks a confined template per submission, watches it and kills it.

It is trusted code without secrets: one thread, one loop over its control socket and the pipes that submissions print to. What the grader
asks of it are the frames below; what a template says goes past it, straight to the grader.
"""

import contextlib
import gc
import os
import select
import socket
import sys
import time
from typing import NoReturn

import msgspec

from autograder.confined import server, wire
from autograder.confined.optimizer import skip_dynamo
from autograder.errors import MachineError
from autograder.sandbox import kernel, kill, reach, walls
from autograder.sandbox.policy import Policy

__all__ = ["Answer", "End", "Ended", "Failed", "Order", "Spawn", "Spawned", "serve"]

_WATCH_SECONDS = 0.15
"""How often memory is summed: a fork bomb that allocates gets this long past its limit."""
_PRINTED_LIMIT = 64 << 10


class Spawn(msgspec.Struct, frozen=True, tag=True):
    """Fork a template behind these walls; it serves the socket that comes along with this frame."""

    policy: Policy


class End(msgspec.Struct, frozen=True, tag=True):
    """Kill the template, if there is one, and all that it started."""


class Spawned(msgspec.Struct, frozen=True, tag=True):
    """The template's pid."""

    pid: int


class Ended(msgspec.Struct, frozen=True, tag=True):
    """How a template ended.

    Attributes:
        status: Its `waitpid` status.
        survivors: Processes that could not be killed: 0 unless the machine fails.
        memory_mb: Megabytes it held when it was ended for its memory; 0 if it was not.
        printed: What it wrote to stdout and stderr, cut.
    """

    status: int
    survivors: int
    memory_mb: int
    printed: str


class Failed(msgspec.Struct, frozen=True, tag=True):
    """The order could not be carried out: the machine's fault."""

    sentence: str


Order = Spawn | End
Answer = Spawned | Ended | Failed


class _Template:
    """The running template, as the zygote knows it."""

    def __init__(self, pid: int, policy: Policy, output: int) -> None:
        self.pid = pid
        self.policy = policy
        self.output = output
        self.printed = bytearray()
        self.memory_mb = 0

    def read_output(self) -> bool:
        """Take what was printed and keep the first part of it; False when there is nothing to take now."""
        try:
            chunk = os.read(self.output, 1 << 16)
        except BlockingIOError:
            return False
        self.printed += chunk[: max(0, _PRINTED_LIMIT - len(self.printed))]
        if not chunk:
            os.close(self.output)
            self.output = -1
        return bool(chunk)

    def close_output(self) -> None:
        """Take what is left, now that nobody writes any more."""
        while self.output >= 0 and self.read_output():
            pass
        if self.output >= 0:
            os.close(self.output)


class _Zygote:
    def __init__(self, control: socket.socket) -> None:
        self._control = control
        self._template: _Template | None = None
        self._next_watch = 0.0
        # Once here, rather than in each template: Python's own library may lie where another uid cannot walk to.
        self._handles = reach.open_handles() if "uid" not in walls.missing() else ()
        reach.use_handles(self._handles)
        own = kernel.status("self")
        self._inherited = sum(int(own.get(name, "0").split()[0]) << 10 for name in ("RssAnon", "RssShmem"))

    def run(self) -> None:
        """Serve until the grader closes its end, then kill what is left."""
        while True:
            sources: list[socket.socket | int] = [self._control]
            if self._template is not None and self._template.output >= 0:
                sources.append(self._template.output)
            readable, _, _ = select.select(sources, [], [], _WATCH_SECONDS if self._template else None)
            if self._template is not None and self._template.output in readable:
                self._template.read_output()
            if self._control in readable:
                try:
                    order, fds = wire.receive(self._control, Order, max_fds=1)
                except EOFError:
                    self._end()
                    return
                wire.send(self._control, self._carry_out(order, fds))
            if self._template is not None and time.monotonic() >= self._next_watch:
                self._watch(self._template)
                self._next_watch = time.monotonic() + _WATCH_SECONDS

    def _carry_out(self, order: Order, fds: list[int]) -> Answer:
        try:
            return self._spawn(order.policy, fds[0]) if isinstance(order, Spawn) else self._end()
        except (MachineError, OSError) as error:
            return Failed(str(error))
        finally:
            for fd in fds:
                os.close(fd)

    def _spawn(self, policy: Policy, rpc: int) -> Spawned:
        self._end()  # nothing is left of an earlier one, even where a grader died before it could end it
        output, stdout = os.pipe()
        os.set_blocking(output, False)
        with walls.prepare(policy, self._handles) as prepared:
            pid = os.fork()
            if pid == 0:
                self._become_template(prepared, rpc, stdout)
        os.close(stdout)
        self._template = _Template(pid, policy, output)
        return Spawned(pid)

    def _become_template(self, prepared: walls.Prepared, rpc: int, stdout: int) -> NoReturn:
        sock = socket.socket(fileno=rpc)
        try:
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            os.dup2(stdout, 1)
            os.dup2(stdout, 2)
            scratch = prepared.policy.scratch
            os.chdir(scratch)
            os.environ.update(HOME=scratch, TMPDIR=scratch)
            standing = walls.enter(prepared, (rpc,))
            wire.send(sock, wire.Done(wire.Mapping(list(standing), list(standing.values()))))
        except BaseException as error:  # noqa: BLE001  # nothing of this process may go on without its walls
            with contextlib.suppress(BaseException):
                wire.send(sock, wire.Raised(type(error).__name__, str(error), []))
            os._exit(70)
        server.serve_template(sock)

    def _end(self) -> Ended:
        template, self._template = self._template, None
        if template is None:
            return Ended(0, 0, 0, "")
        survivors = kill.kill_all(template.policy.uid, template.pid)
        status = 0
        with contextlib.suppress(ChildProcessError):
            status = os.waitpid(template.pid, 0)[1]
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        template.close_output()
        if template.policy.uid is not None:
            kill.leftovers(template.policy.uid)
        return Ended(status, survivors, template.memory_mb, template.printed.decode("utf-8", "replace"))

    def _watch(self, template: _Template) -> None:
        """Reap orphans; end the submission if it holds more memory than it may as a whole."""
        with contextlib.suppress(ChildProcessError):
            # Not the template itself: until all that it started is killed, its process id must stay its own.
            while (ended := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)) is not None:
                if ended.si_pid == template.pid:
                    break
                os.waitpid(ended.si_pid, 0)
        # What a process inherited from this one at the fork is not the submission's doing.
        held = kill.memory_of(template.policy.uid, template.pid, self._inherited) >> 20
        if held > template.policy.limits.memory_mb:
            template.memory_mb = held
            kill.kill_all(template.policy.uid, template.pid)


def serve(control: socket.socket) -> NoReturn:
    """Be the zygote on this control socket; returns never."""
    try:
        sys.dont_write_bytecode = True  # what student code imports is none of the disk's business
        skip_dynamo()
        server.warm_up()
        kernel.prctl(kernel.PR_SET_CHILD_SUBREAPER, 1)
        walls.protect()
        gc.collect()
        gc.freeze()
        _Zygote(control).run()
    finally:
        os._exit(0)
