"""The confined side's two loops, run without walls: a template that imports and forks, and the children it forks."""

import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import UnionType
from typing import Any

import pytest

from autograder.confined import wire

ROOT = Path(__file__).resolve().parent.parent.parent
SECONDS = 60

# A process with torch and nothing else, as the zygote is: for each socket it is sent it forks a template.
_FORKER = """
import os, signal, socket, sys
sys.path.insert(0, sys.argv[2])
import torch
torch.set_num_threads(1)
from autograder.confined import server, wire
control = socket.socket(fileno=int(sys.argv[1]))
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
while True:
    _, fds = wire.receive(control, wire.ToTemplate, max_fds=1)
    if os.fork() == 0:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        control.close()
        server.serve_template(socket.socket(fileno=fds[0]))
    os.close(fds[0])
"""

SUBMISSION = """
import random
import torch

print_count = 0
things = []
drawn_at_import = float(torch.rand(1)), random.random()
saw_cuda = torch.cuda.is_available()

class Net(torch.nn.Module):
    sizes = [1, 2]

    def __init__(self, out=3):
        super().__init__()
        self.fc = torch.nn.Linear(2, out)

    def forward(self, x):
        return self.fc(x)

def add(thing):
    things.append(thing)
    torch.add_was_here = True
    return list(things)

def seen():
    return [len(things), hasattr(torch, "add_was_here")]

def draw():
    return torch.rand(3), random.random()

def same(x, *, twice=False):
    return [x, x] if twice else x

def zeros_on(x):
    return x + torch.zeros(2)

def fail():
    raise ValueError("no good")

def leave():
    raise SystemExit(3)

def interrupt():
    raise KeyboardInterrupt

def leave_hard():
    import os
    os._exit(7)

def crash():
    import os, signal
    os.kill(os.getpid(), signal.SIGSEGV)

def burn():
    while True:
        pass

def big():
    return ["x" * 100_000] * 1000
"""


class End:
    """Our end of a line to the confined side."""

    def __init__(self, sock: socket.socket, replies: UnionType) -> None:
        self.sock, self._replies = sock, replies

    def ask(self, message: Any, *fds: int) -> Any:
        """Send a message, and the answer."""
        wire.send(self.sock, message, fds, time.monotonic() + SECONDS)
        return self.answer()

    def answer(self) -> Any:
        """The next answer."""
        return wire.receive(self.sock, self._replies, time.monotonic() + SECONDS)[0]

    def call(self, path: str, *args: Any, **kwargs: Any) -> Any:
        """Call something of the student's module."""
        return self.ask(wire.Call(wire.MODULE, path, list(args), kwargs))

    def value(self, path: str, *args: Any) -> Any:
        """The value that a call gives, with tensors as their bytes."""
        return plain(self.call(path, *args).value)


def plain(value: Any) -> Any:
    """A wire value without its structs."""
    if isinstance(value, wire.NestedList):
        return [plain(item) for item in value.items]
    if isinstance(value, wire.Mapping):
        return dict(zip(value.keys, map(plain, value.values), strict=True))
    return value.data if isinstance(value, wire.Tensor) else value


class Template(End):
    """A template, and the children that it is asked for."""

    def __init__(self, sock: socket.socket) -> None:
        super().__init__(sock, wire.Reply)
        self.ends: list[socket.socket] = [sock]

    def fork(self, seed: int = 1, cpu_seconds: int = SECONDS) -> tuple[End, int]:
        """A child for one test that has begun, and its process id."""
        ours, theirs = socket.socketpair()
        self.ends.append(ours)
        with theirs:
            pid = self.ask(wire.Fork(), theirs.fileno()).value
        child = End(ours, wire.Reply)
        assert child.ask(wire.Begin(seed, cpu_seconds)) == wire.Done(None)
        return child, pid

    def end_of(self, pid: int) -> int:
        """How a child ended, once it has."""
        deadline = time.monotonic() + SECONDS
        while time.monotonic() < deadline:
            reply = self.ask(wire.Reap(pid))
            if reply.value is not None:
                return int(reply.value)
            time.sleep(0.01)
        pytest.fail(f"child {pid} did not end")


@pytest.fixture(scope="module")
def forker() -> Iterator[socket.socket]:
    """The process that forks templates."""
    ours, theirs = socket.socketpair()
    with theirs:
        process = subprocess.Popen(
            [sys.executable, "-c", _FORKER, str(theirs.fileno()), str(ROOT)],
            pass_fds=[theirs.fileno()],
            stderr=subprocess.DEVNULL,
            env={**os.environ, "OMP_NUM_THREADS": "1", "TORCHDYNAMO_DISABLE": "1"},
        )
    yield ours
    ours.close()
    process.wait(SECONDS)


@pytest.fixture
def start(forker: socket.socket) -> Iterator[Callable[[], Template]]:
    """Start templates that hold nothing yet; their lines are closed afterwards."""
    started: list[Template] = []

    def start() -> Template:
        ours, theirs = socket.socketpair()
        with theirs:
            wire.send(forker, wire.Fork(), (theirs.fileno(),))
        started.append(Template(ours))
        return started[-1]

    yield start
    for template in started:
        for end in template.ends:
            end.close()


@pytest.fixture
def template(start: Callable[[], Template], tmp_path: Path) -> Template:
    """A template that has imported `SUBMISSION`."""
    return loaded(start(), tmp_path)


def loaded(template: Template, folder: Path, source: str = SUBMISSION, seed: int = 5) -> Template:
    """The template, with this source imported."""
    (folder / "submission.py").write_text(source, encoding="utf-8")
    reply = template.ask(wire.Load(str(folder), "submission", seed))
    assert isinstance(reply, wire.Loaded), reply
    return template


def test_loading_tells_names_and_what_is_missing(start: Callable[[], Template], tmp_path: Path) -> None:
    """A module that was imported is told by its names and by what is not installed; what it raised is for notebooks."""
    source = "import absent\nx = 1\n1 / 0\ny = 2\n"
    (tmp_path / "submission.py").write_text(source, encoding="utf-8")
    reply = start().ask(wire.Load(str(tmp_path), "submission", 1, tolerant=True))
    assert {"x", "y", "absent"} <= set(reply.names)
    assert reply.missing == ["absent"]
    assert [error.kind for error in reply.raised] == ["ZeroDivisionError"]


@pytest.mark.parametrize(
    ("source", "kind"),
    [
        ("1 / 0", "ZeroDivisionError"),
        ("def f(:", "SyntaxError"),
        ("exit(3)", "SystemExit"),
        ("raise KeyboardInterrupt", "KeyboardInterrupt"),
    ],
)
def test_an_import_that_fails_is_an_answer(
    start: Callable[[], Template], tmp_path: Path, source: str, kind: str
) -> None:
    """Whatever raises at import, an exit included, is told, and the template can be asked again."""
    (tmp_path / "submission.py").write_text(source, encoding="utf-8")
    template = start()
    reply = template.ask(wire.Load(str(tmp_path), "submission", 1))
    assert (type(reply), reply.kind) == (wire.Raised, kind)
    assert reply.lines == [("submission.py", 1, "<module>")]
    loaded(template, tmp_path, "x = 1\n")


def test_a_child_does_as_it_is_asked(template: Template) -> None:
    """Calls, attributes, methods of objects and torch itself are answered, with arguments of every kind."""
    child, _ = template.fork()
    tensor = wire.Tensor("float32", [1, 2], b"\x00\x00\x80?\x00\x00\x00@")
    assert child.call("same", tensor).value == tensor
    assert child.call("same", 3, twice=True).value == wire.NestedList([3, 3])
    net = child.call("Net", out=4).value
    assert (net.kind, net.is_module) == ("Net", True)
    output = child.ask(wire.Call(net.ref, "", [tensor], {})).value
    assert (output.shape, output.requires_grad) == ([1, 4], True)
    assert child.ask(wire.Call(net.ref, "fc.out_features", [], {}, get=True)) == wire.Done(4)
    assert child.ask(wire.Call(wire.MODULE, "Net.sizes", [], {}, get=True)).value == wire.NestedList([1, 2])
    assert child.call("same", net).value.ref != net.ref
    state = child.ask(wire.Call(net.ref, "state_dict", [], {})).value
    assert state.keys == ["fc.weight", "fc.bias"]
    layer = child.ask(wire.Call(wire.TORCH, "nn.Linear", [2, 1], {})).value
    assert layer.kind == "Linear"


def test_verbs_are_carried_out(template: Template) -> None:
    """A verb runs on an object that a call gave; one that does not exist is an error and no more."""
    child, _ = template.fork()
    net = child.call("Net").value
    entries = child.ask(wire.Verb("tensors", [net], {})).value.items
    assert [entry.items[0] for entry in entries] == ["fc.weight", "fc.bias"]
    assert child.ask(wire.Verb("modes", [net], {})).value == wire.NestedList([True, True])
    assert child.ask(wire.Verb("os.system", ["true"], {})).kind == "KeyError"


@pytest.mark.parametrize(
    ("name", "kind", "message"),
    [("fail", "ValueError", "no good"), ("leave", "SystemExit", "3"), ("interrupt", "KeyboardInterrupt", "")],
)
def test_what_student_code_raises_is_an_answer(template: Template, name: str, kind: str, message: str) -> None:
    """An exception, an exit and an interrupt are told with the student's line, and the child goes on."""
    child, _ = template.fork()
    reply = child.call(name)
    assert (type(reply), reply.kind, reply.message) == (wire.Raised, kind, message)
    assert [line[2] for line in reply.lines] == [name]
    assert child.value("same", 1) == 1


def test_bad_questions_are_errors_of_one_request(template: Template) -> None:
    """A name that is not there or an object that never was raises, without ending the child."""
    child, _ = template.fork()
    assert child.call("nothing").kind == "AttributeError"
    assert child.ask(wire.Call(99, "", [], {})).kind == "IndexError"
    assert child.call("same", wire.Tensor("nonsense", [1], b"")).kind == "AttributeError"
    assert child.value("same", 1) == 1


def test_an_answer_that_is_too_long_is_an_error(template: Template) -> None:
    """What does not fit into a frame is told as such, and the child goes on."""
    child, _ = template.fork()
    reply = child.call("big")
    assert (reply.kind, "over the limit" in reply.message) == ("ValueError", True)
    assert child.value("same", 1) == 1


def test_children_do_not_see_each_others_changes(template: Template) -> None:
    """What one test's code changes, in its module or in torch, is unseen in the next, before and after it ends."""
    first, _ = template.fork()
    early, _ = template.fork()
    assert first.value("add", 1) == [1]
    assert first.value("seen") == [1, True]
    late, _ = template.fork()
    assert [early.value("seen"), late.value("seen")] == [[0, False], [0, False]]


def test_seeds_make_a_test_repeatable(template: Template) -> None:
    """The same seed gives the same draws, of torch and of Python; another seed gives others."""
    one, other, again = (template.fork(seed)[0] for seed in (1, 2, 1))
    draws = [child.value("draw") for child in (one, other, again)]
    assert draws[0] == draws[2]
    assert draws[0][0] != draws[1][0]
    assert draws[0][1] != draws[1][1]
    assert one.value("draw") != draws[0]
    assert draws[0][1] == random.Random(1).random()  # noqa: S311  # nothing secret


def test_a_seed_makes_the_import_repeatable(start: Callable[[], Template], tmp_path: Path) -> None:
    """What a module draws while it is imported depends on the seed of its loading alone."""
    drawn = []
    for seed in (5, 6, 5):
        child, _ = loaded(start(), tmp_path, seed=seed).fork()
        drawn.append(plain(child.ask(wire.Call(wire.MODULE, "drawn_at_import", [], {}, get=True)).value))
    assert drawn[0] == drawn[2]
    assert drawn[0][0] != drawn[1][0]
    assert drawn[0][1] != drawn[1][1]


def test_how_a_child_ended_can_be_asked(template: Template) -> None:
    """A child that lives is None; one that closed, exited or crashed is told by its status, however often."""
    quiet, quiet_pid = template.fork()
    left, left_pid = template.fork()
    crashed, crashed_pid = template.fork()
    assert template.ask(wire.Reap(quiet_pid)) == wire.Done(None)
    for child, name in ((left, "leave_hard"), (crashed, "crash")):
        with pytest.raises((EOFError, OSError)):
            child.call(name)
    assert os.waitstatus_to_exitcode(template.end_of(left_pid)) == 7
    assert os.waitstatus_to_exitcode(template.end_of(crashed_pid)) == -signal.SIGSEGV
    quiet.sock.close()
    assert template.end_of(quiet_pid) == 0
    assert os.waitstatus_to_exitcode(template.end_of(left_pid)) == 7


def test_a_childs_cpu_time_is_limited(template: Template) -> None:
    """A loop without end is killed by the kernel once its CPU seconds are spent, and by the signal that says so."""
    child, pid = template.fork(cpu_seconds=0)
    with pytest.raises((EOFError, OSError)):
        child.call("burn")
    assert os.waitstatus_to_exitcode(template.end_of(pid)) == -signal.SIGXCPU


def test_a_gpu_is_pretended_for_one_child(template: Template) -> None:
    """With `use_gpu` the module is imported anew and sees a GPU, mistakes of device show, and answers tell theirs."""
    child, _ = template.fork()
    if child.ask(wire.Call(wire.MODULE, "saw_cuda", [], {}, get=True)).value:
        pytest.skip("this machine has a GPU, and none is pretended")
    child.call("add", 1)
    assert child.ask(wire.Verb("use_gpu", [], {})) == wire.Done("a simulated CUDA device")
    assert child.ask(wire.Call(wire.MODULE, "saw_cuda", [], {}, get=True)) == wire.Done(True)
    assert child.value("seen")[0] == 0
    tensor = wire.Tensor("float32", [2], b"\x00\x00\x80?\x00\x00\x00@", "cuda")
    back = child.call("same", tensor).value
    assert (back.device, back.data) == ("cuda:0", tensor.data)
    assert "same device" in child.call("zeros_on", tensor).message
    other, _ = template.fork()
    assert other.ask(wire.Call(wire.MODULE, "saw_cuda", [], {}, get=True)) == wire.Done(False)


def test_the_template_ends_with_its_line(template: Template) -> None:
    """A template whose line closes ends."""
    child, _ = template.fork()
    pid = plain(child.ask(wire.Call(wire.TORCH, "os.getppid", [], {})).value)
    for end in template.ends:
        end.close()
    deadline = time.monotonic() + SECONDS
    while Path(f"/proc/{pid}").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not Path(f"/proc/{pid}").exists()


@pytest.mark.parametrize("frame", [b"\x04\x00\x00\x00evil", b"\xff\xff\xff\xff"])
def test_a_broken_line_ends_the_process(template: Template, frame: bytes) -> None:
    """A child that hears what is no request ends, rather than going on with a line out of step."""
    child, pid = template.fork()
    child.sock.sendall(frame)
    assert template.end_of(pid) == 0
