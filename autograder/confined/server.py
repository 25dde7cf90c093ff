"""Layer 1, confined: serves one submission. The template imports it and forks a child per test, which does as asked.

Everything after `serve_template` starts runs behind the walls. A process here never goes back to the caller: it exits.
"""

import contextlib
import gc
import operator
import os
import random
import resource
import socket
import types
from typing import Any, NoReturn

import torch
from torch.overrides import resolve_name

from autograder.confined import loading, simgpu, wire
from autograder.confined.values import Objects, from_wire, to_wire
from autograder.confined.verbs import VERBS

__all__ = ["serve_template", "warm_up"]


class _Template:
    """The process that imported the student's module, and that every test's child is forked from."""

    def __init__(self) -> None:
        self.module = types.ModuleType("nothing_loaded")
        self.request = wire.Load("", "", 0)
        self._ended: dict[int, int] = {}

    def load(self, request: wire.Load) -> wire.Reply:
        self.request = request
        _seed(request.seed)
        try:
            self.module, loader = loading.load(request.folder, request.module, tolerant=request.tolerant)
        except BaseException as error:  # noqa: BLE001  # student code raises anything, SystemExit too
            return loading.describe(error, request.folder)
        # A collection in a child would write to every object it looks at, and so copy the pages they share.
        gc.collect()
        gc.freeze()
        return wire.Loaded([name for name in vars(self.module) if isinstance(name, str)], loader.missing, loader.raised)

    def reap(self, pid: int) -> int | None:
        with contextlib.suppress(ChildProcessError):
            while (ended := os.waitpid(-1, os.WNOHANG))[0]:
                self._ended[ended[0]] = ended[1]
        return self._ended.get(pid)


class _Child:
    """The process in which one test's requests are carried out."""

    def __init__(self, template: _Template) -> None:
        self._template = template
        self._module = template.module
        self._objects = Objects()
        self._gpu = contextlib.ExitStack()

    def answer(self, request: wire.ToChild) -> wire.Reply:
        try:
            if isinstance(request, wire.Begin):
                _seed(request.seed)
                used = resource.getrusage(resource.RUSAGE_SELF)
                soft = int(used.ru_utime + used.ru_stime) + 1 + request.cpu_seconds
                hard = resource.getrlimit(resource.RLIMIT_CPU)[1]
                resource.setrlimit(resource.RLIMIT_CPU, (soft if hard < 0 else min(soft, hard), hard))
                return wire.Done(None)
            args = [from_wire(value, self._objects) for value in request.args]
            kwargs = {name: from_wire(value, self._objects) for name, value in request.kwargs.items()}
            if isinstance(request, wire.Verb):
                verb = self._use_gpu if request.name == "use_gpu" else VERBS[request.name]
                return wire.Done(to_wire(verb(*args, **kwargs), self._objects))
            thing = self._target(request)
            return wire.Done(to_wire(thing if request.get else thing(*args, **kwargs), self._objects))
        except BaseException as error:  # noqa: BLE001  # student code raises anything, SystemExit too
            return loading.describe(error, self._template.request.folder)

    def _target(self, request: wire.Call) -> Any:
        if request.target == wire.MODULE:
            thing: Any = self._module
        elif request.target == wire.TORCH:
            thing = torch
        else:
            thing = self._objects[request.target]
        return operator.attrgetter(request.path)(thing) if request.path else thing

    def _use_gpu(self) -> str:
        """Have a CUDA device from here on, real or simulated, with the student's module imported anew.

        A module may ask at import whether there is a GPU; it has to hear what its models will see.
        """
        where = "a CUDA device"
        if not _cuda_works():
            self._gpu.enter_context(simgpu.simulated_cuda())
            where = "a simulated CUDA device"
        request = self._template.request
        self._module, _ = loading.load(request.folder, request.module, tolerant=request.tolerant)
        return where


def _cuda_works() -> bool:
    """Whether there is a CUDA device that can be used behind the walls; until now it was hidden, so that no other test depends on it."""
    os.environ.pop("CUDA_VISIBLE_DEVICES", None)
    try:
        return torch.cuda.is_available() and bool(torch.ones(1, device="cuda").item())
    except (RuntimeError, AssertionError):
        return False


def warm_up() -> None:
    """Run the layers that students use once, forward and backward: every fork then has what the first run of each sets up."""
    nn = torch.nn
    layers = nn.Sequential(
        nn.Conv2d(1, 4, 5),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Dropout(0.5),
        nn.Linear(64, 10),
    )
    loss = nn.functional.cross_entropy(layers(torch.zeros(2, 1, 12, 12)), torch.zeros(2, dtype=torch.int64))
    torch.autograd.backward(loss)
    resolve_name(torch.relu)  # builds the table of names that tracing looks operations up in


def _seed(seed: int) -> None:
    # torch.manual_seed would also note a call for each kind of accelerator, with a formatted stack: 4 ms
    torch.default_generator.manual_seed(seed)
    random.seed(seed)


def _reply(sock: socket.socket, reply: wire.Reply) -> None:
    try:
        wire.send(sock, reply)
    except (wire.FrameError, ValueError) as error:  # too long, or a name that is not Unicode: nothing was sent yet
        wire.send(sock, wire.Raised("ValueError", str(error), []))


def _serve_child(sock: socket.socket, template: _Template) -> NoReturn:
    child = _Child(template)
    try:
        while True:
            request, _ = wire.receive(sock, wire.ToChild)
            _reply(sock, child.answer(request))
    except BaseException:  # noqa: BLE001  # the other side closed, or student code broke the wire: this test's loss alone
        os._exit(0)


def serve_template(sock: socket.socket) -> NoReturn:
    """Serve the template's socket until the other side closes it, then exit."""
    template = _Template()
    try:
        while True:
            request, fds = wire.receive(sock, wire.ToTemplate, max_fds=1)
            if isinstance(request, wire.Load):
                _reply(sock, template.load(request))
            elif isinstance(request, wire.Reap):
                _reply(sock, wire.Done(template.reap(request.pid)))
            else:
                pid = os.fork()
                if pid == 0:
                    sock.close()
                    _serve_child(socket.socket(fileno=fds[0]), template)
                os.close(fds[0])
                template.reap(0)
                _reply(sock, wire.Done(pid))
    except BaseException:  # noqa: BLE001  # likewise
        os._exit(0)
