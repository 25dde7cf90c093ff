"""Conformance: each wall stops what it is there for, alone and in company, and without it the same attempt succeeds."""

import ctypes
import os
import resource
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from autograder.errors import MachineError
from autograder.sandbox import kernel, landlock, seccomp, walls
from autograder.sandbox.policy import LAYERS, Limits

if TYPE_CHECKING:
    from selftests.sandbox.conftest import Stage

_libc = ctypes.CDLL(None, use_errno=True)


def _call(name: str, *arguments: int) -> int:
    result = int(getattr(_libc, name)(*(ctypes.c_long(value) for value in arguments)))
    if result < 0:
        raise OSError(ctypes.get_errno(), name)
    return result


def _in_a_fork(act: Callable[[], object]) -> None:
    pid = os.fork()
    if pid == 0:
        try:
            act()
        except OSError as error:
            os._exit(error.errno or 255)
        os._exit(0)
    if code := os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]):
        raise OSError(code, "in a fork")


def _open_a_socket(_: "Stage") -> None:
    socket.socket(socket.AF_INET, socket.SOCK_DGRAM).close()


def _connect(stage: "Stage") -> None:
    socket.create_connection(("127.0.0.1", stage.port), timeout=5).close()


def _run_a_program(_: "Stage") -> None:
    _in_a_fork(lambda: os.execv("/bin/true", ["true"]))  # noqa: S606  # the attempt itself


def _be_traced(_: "Stage") -> None:
    _in_a_fork(lambda: _call("ptrace", 0, 0, 0, 0))


def _read_a_private_file(stage: "Stage") -> None:
    stage.private.read_text()


def _read_outside(stage: "Stage") -> None:
    stage.world_readable.read_text()


def _write_outside(stage: "Stage") -> None:
    (stage.world_writable / str(os.getpid())).write_text("here")


def _signal_the_grader(stage: "Stage") -> None:
    os.kill(stage.parent, 0)


def _take_memory(_: "Stage") -> None:
    bytearray(150 << 20)


def _take_memory_in_a_fork(_: "Stage") -> None:
    def act() -> None:
        try:
            bytearray(150 << 20)
        except MemoryError:
            os._exit(12)

    _in_a_fork(act)


def _fork_often(_: "Stage") -> None:
    for _try in range(40):
        if os.fork() == 0:
            signal.pause()


def _burn_time(_: "Stage") -> None:
    while time.process_time() < 1.5:
        pass


def _write_a_big_file(stage: "Stage") -> None:
    (stage.scratch / str(os.getpid())).write_bytes(bytes(2 << 20))


def _open_many(_: "Stage") -> None:
    for descriptor in [os.open("/dev/null", os.O_RDONLY) for _ in range(60)]:
        os.close(descriptor)


def _leave_the_session(_: "Stage") -> None:
    _in_a_fork(os.setsid)


def _leave_the_group(_: "Stage") -> None:
    _in_a_fork(lambda: os.setpgid(0, 0))


def _use_an_inherited_descriptor(stage: "Stage") -> None:
    os.fstat(stage.descriptor)


def _unshare(_: "Stage") -> None:
    _call("unshare", 0x400)  # CLONE_FILES, which needs no right at all


@dataclass(frozen=True)
class Attempt:
    """Something that must fail: how, by which walls, and which layers the wall builds on."""

    act: "Callable[[Stage], Any]"
    outcomes: tuple[tuple[str, str], ...]
    walls: tuple[str, ...]
    builds_on: tuple[str, ...] = ()


def _refused(*errors: str) -> tuple[tuple[str, str], ...]:
    return tuple(("refused", error) for error in errors)


ATTEMPTS = {
    attempt.act.__name__.strip("_"): attempt
    for attempt in (
        Attempt(_open_a_socket, _refused("EPERM"), ("seccomp",)),
        Attempt(_connect, _refused("EPERM", "EACCES"), ("seccomp", "landlock")),
        Attempt(_run_a_program, _refused("EPERM", "EACCES"), ("seccomp", "landlock")),
        Attempt(_be_traced, _refused("EPERM"), ("seccomp",)),
        Attempt(_unshare, _refused("EPERM"), ("seccomp",)),
        Attempt(_leave_the_session, _refused("EPERM"), ("seccomp",)),
        Attempt(_leave_the_group, _refused("EPERM"), ("seccomp",)),
        Attempt(_read_a_private_file, _refused("EACCES"), ("uid",)),
        Attempt(_read_outside, _refused("EACCES"), ("landlock",)),
        Attempt(_write_outside, _refused("EACCES"), ("landlock",)),
        Attempt(_signal_the_grader, _refused("EPERM", "ENOSYS"), ("uid", "landlock", "seccomp")),
        Attempt(_take_memory, _refused("MemoryError"), ("rlimits",)),
        Attempt(_take_memory_in_a_fork, _refused("ENOMEM"), ("rlimits",)),
        Attempt(_fork_often, _refused("EAGAIN"), ("rlimits",), builds_on=("uid",)),  # root may fork without bound
        Attempt(_burn_time, (("died", "SIGXCPU"),), ("rlimits",)),
        Attempt(_write_a_big_file, _refused("EFBIG"), ("rlimits",)),
        Attempt(_open_many, _refused("EMFILE"), ("rlimits",)),
        Attempt(_use_an_inherited_descriptor, _refused("EBADF"), ("descriptors",)),
    )
}


def _skip_unless_stands(*layers: str) -> None:
    for layer, reason in walls.missing().items():
        if layer in layers:
            pytest.skip(f"{layer}: {reason}")


@pytest.mark.parametrize("name", ATTEMPTS)
def test_stops_with_every_wall_up(name: str, stage: "Stage") -> None:
    """With all walls, the attempt fails in the way that a library can handle."""
    attempt = ATTEMPTS[name]
    if all(wall in walls.missing() for wall in attempt.walls):
        _skip_unless_stands(*attempt.walls)
    assert stage.attempt(attempt.act) in attempt.outcomes


@pytest.mark.parametrize(("name", "wall"), [(name, wall) for name, one in ATTEMPTS.items() for wall in one.walls])
def test_each_wall_stops_alone(name: str, wall: str, stage: "Stage") -> None:
    """One wall, with what it builds on and no other, stops the attempt."""
    _skip_unless_stands(wall)
    attempt = ATTEMPTS[name]
    assert stage.attempt(attempt.act, stage.policy((wall, *attempt.builds_on))) in attempt.outcomes


@pytest.mark.parametrize("name", ATTEMPTS)
def test_succeeds_with_its_walls_down(name: str, stage: "Stage") -> None:
    """With those walls down and all others up, the attempt succeeds: so it is they that stop it."""
    attempt = ATTEMPTS[name]
    if set(attempt.walls) <= {"uid"}:
        _skip_unless_stands("uid")
    if stage.attempt(attempt.act, stage.policy(()))[0] != "done":
        pytest.skip("this machine refuses it to everybody")
    others = tuple(layer for layer in LAYERS if layer not in attempt.walls)
    assert stage.attempt(attempt.act, stage.policy(others))[0] == "done"


def test_says_what_stands_and_why_the_rest_does_not(stage: "Stage") -> None:
    """Each layer is either in what `enter` returns or in `missing` with a reason, never in both."""
    policy = stage.policy(tuple(layer for layer in LAYERS if layer != "seccomp"))
    with walls.prepare(policy) as prepared:
        assert prepared.missing["seccomp"] == "the policy leaves it out"
        missing = set(prepared.missing)
    receiver, sender = os.pipe()
    with walls.prepare(policy) as prepared:
        pid = os.fork()
        if pid == 0:
            os.write(sender, " ".join(walls.enter(prepared, (sender,))).encode())
            os._exit(0)
    os.waitpid(pid, 0)
    stands = set(os.read(receiver, 1000).decode().split())
    os.close(receiver)
    os.close(sender)
    assert stands | missing == set(LAYERS)
    assert not stands & missing
    assert set(walls.standing()) | set(walls.missing()) == set(LAYERS)


def test_a_machine_without_landlock_and_libseccomp(stage: "Stage", monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a container has neither, both are named with a reason, and the other walls stand."""
    monkeypatch.setattr(landlock, "abi", lambda: 0)
    monkeypatch.setattr(seccomp, "why_missing", lambda: "no libseccomp")
    assert {"landlock", "seccomp"} <= set(walls.missing())
    assert not {"landlock", "seccomp"} & set(walls.standing())
    assert stage.attempt(_take_memory) == ("refused", "MemoryError")
    assert stage.attempt(_open_a_socket) == ("done", None)


def test_refuses_a_process_with_threads(stage: "Stage") -> None:
    """Walls around one of several threads would be no walls: `enter` raises and nothing is confined."""
    done = threading.Event()
    thread = threading.Thread(target=done.wait)
    thread.start()
    try:
        with walls.prepare(stage.policy()) as prepared, pytest.raises(MachineError, match="one thread"):
            walls.enter(prepared, ())
    finally:
        done.set()
        thread.join()


def test_dies_with_the_zygote(stage: "Stage") -> None:
    """When the process that prepared the walls ends, the confined one is killed."""
    receiver, sender = os.pipe()
    zygote = os.fork()
    if zygote == 0:
        prepared = walls.prepare(stage.policy())
        if os.fork() == 0:
            walls.enter(prepared, (sender,))
            os.write(sender, b"in")
            signal.pause()
        os.read(receiver, 2)
        os._exit(0)
    os.close(sender)
    os.waitpid(zygote, 0)
    assert select.select([receiver], [], [], 10)[0]
    assert os.read(receiver, 1) == b""  # end of file: nobody holds the other end any more
    os.close(receiver)


def test_limits_cannot_be_raised(stage: "Stage") -> None:
    """A submission cannot raise the limits that it was given."""

    def act(_: "Stage") -> None:
        try:
            resource.setrlimit(resource.RLIMIT_DATA, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        except ValueError as error:
            raise OSError(1, "refused") from error

    if os.geteuid() == 0:
        _skip_unless_stands("uid")
    assert stage.attempt(act) == ("refused", "EPERM")


def test_has_no_rights_and_new_files_are_private(stage: "Stage") -> None:
    """Inside, no capability is left, no program can add one, and nobody else reads what is written."""

    def act(stage: "Stage") -> tuple[str, str, int]:
        fields = kernel.status("self")
        (stage.scratch / "new").write_text("x")
        return fields["CapEff"], fields["NoNewPrivs"], (stage.scratch / "new").stat().st_mode & 0o777

    assert stage.attempt(act) == ("done", ["0" * 16, "1", 0o600])


def test_a_child_cannot_be_read_by_its_siblings(stage: "Stage") -> None:
    """Processes of a submission cannot be dumped, so one test's memory is closed to the next."""

    def act(_: "Stage") -> None:
        sibling = os.fork()
        if sibling == 0:
            signal.pause()
        os.close(os.open(f"/proc/{sibling}/mem", os.O_RDONLY))

    if os.geteuid() == 0:
        _skip_unless_stands("uid")
    assert stage.attempt(act, stage.policy(("uid",))) == ("refused", "EACCES")


_TRAINING = """
import os, sys, tempfile, threading
import torch
from torch import nn
torch.set_num_threads(1)
from autograder.sandbox import kill, walls
from autograder.sandbox.policy import Limits, Policy

scratch = sys.argv[1]
uid = None if os.geteuid() else kill.new_uid()
if uid is not None:
    os.chown(scratch, uid, uid)
with walls.prepare(Policy(scratch=scratch, uid=uid, limits=Limits(memory_mb=1500))) as prepared:
    pid = os.fork()
    if pid == 0:
        try:
            walls.enter(prepared, ())
            os.chdir(scratch)
            os.environ.update(HOME=scratch, TMPDIR=scratch)
            model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 26 * 26, 10))
            optimizer = torch.optim.Adam(model.parameters())
            data = torch.utils.data.TensorDataset(torch.randn(8, 1, 28, 28), torch.arange(8))
            for images, labels in torch.utils.data.DataLoader(data, batch_size=4, shuffle=True):
                optimizer.zero_grad()
                nn.functional.cross_entropy(model(images), labels).backward()
                optimizer.step()
            torch.save(model.state_dict(), "model.pt")
            model.load_state_dict(torch.load("model.pt"))
            with tempfile.NamedTemporaryFile() as file:
                file.write(b"x")
            torch.set_num_threads(2)
            torch.ones(400, 400) @ torch.ones(400, 400)
            thread = threading.Thread(target=print, args=("thread",))
            thread.start()
            thread.join()
            try:
                os.posix_spawn("/bin/true", ["true"], {})
            except PermissionError:
                print("no program", flush=True)
            import torch.distributions, torch._dynamo, torch.onnx, wave, sqlite3, colorsys, ssl
            try:
                torch.ones(1 << 30)
            except RuntimeError:
                print("no memory", flush=True)
            os._exit(0)
        except BaseException:
            import traceback
            traceback.print_exc()
            os._exit(1)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"""


def test_training_works_inside(stage: "Stage") -> None:
    """What a right answer does works: train, save, load, temporary files, threads, late imports, refusals as errors."""
    command = [sys.executable, "-W", "ignore", "-c", _TRAINING, str(stage.scratch)]
    run = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert run.returncode == 0, run.stderr
    assert run.stdout.split("\n") == ["thread", "no program", "no memory", ""], run.stderr


def test_the_default_limits_leave_room_for_ordinary_work(stage: "Stage") -> None:
    """Within the default limits, a few threads and some hundred MiB are no problem."""

    def act(_: "Stage") -> int:
        threads = [threading.Thread(target=bytearray, args=(1 << 20,)) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return len(bytearray(200 << 20))

    assert stage.attempt(act, stage.policy(limits=Limits())) == ("done", 200 << 20)
