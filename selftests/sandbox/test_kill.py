"""What a submission started is found, counted and ended, and nothing else is."""

import contextlib
import ctypes
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from autograder.errors import MachineError
from autograder.sandbox import kernel, kill, walls
from autograder.sandbox.policy import LAYERS, Limits

if TYPE_CHECKING:
    from selftests.sandbox.conftest import Stage

_as_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, for a uid of its own")
_ROOM = Limits(cpu_seconds=20, memory_mb=300, processes=16, file_mb=64, open_files=32)
Start = Callable[[Callable[[], object]], int]


@pytest.fixture
def start(stage: "Stage") -> Iterator[Start]:
    """Starts a confined process that does something, says so, and stays; what is left is killed afterwards."""
    started: list[int] = []

    def start_one(act: Callable[[], object]) -> int:
        receiver, sender = os.pipe()
        with walls.prepare(stage.policy(_LAYERS, _ROOM)) as prepared:
            pid = os.fork()
            if pid == 0:
                try:
                    walls.enter(prepared, (sender,))
                    act()
                    os.write(sender, b"x")
                    while True:
                        signal.pause()
                finally:
                    os._exit(1)
        os.close(sender)
        started.append(pid)
        said = os.read(receiver, 1)
        os.close(receiver)
        assert said == b"x"
        return pid

    yield start_one
    for pid in started:
        assert kill.kill_all(stage.uid, pid) == 0
        os.waitpid(pid, 0)


_LAYERS = tuple(layer for layer in LAYERS if layer != "landlock")  # these tests write to /tmp and /dev/shm


def _fork_until_refused() -> None:
    try:
        while os.fork():
            pass
    except OSError:
        return
    while True:
        with contextlib.suppress(OSError):
            os.fork()  # the children go on trying, so forks are under way when the signal comes
        time.sleep(0.001)


def test_a_fork_bomb_is_bounded_and_ends(stage: "Stage", start: Start) -> None:
    """No more processes than allowed ever live, and none survives, however fast they fork."""
    pid = start(_fork_until_refused)
    assert 2 <= len(kill.members(stage.uid, pid)) <= _ROOM.processes
    assert kill.kill_all(stage.uid, pid) == 0
    assert kill.members(stage.uid, pid) == []


def test_stopped_and_deaf_processes_end(stage: "Stage", start: Start) -> None:
    """A process that ignores signals and one that is stopped are killed like any other."""

    def act() -> None:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        if (child := os.fork()) == 0:
            while True:
                signal.pause()
        os.kill(child, signal.SIGSTOP)

    if "uid" in walls.missing():
        pytest.skip("without a uid, signals by process id are refused inside")
    pid = start(act)
    assert len(kill.members(stage.uid, pid)) == 2
    assert kill.kill_all(stage.uid, pid) == 0


def test_orphans_end(stage: "Stage", start: Start) -> None:
    """A process whose parent ended belongs to its submission still."""

    def act() -> None:
        if os.fork() == 0:
            if os.fork() == 0:
                while True:
                    signal.pause()
            os._exit(0)
        os.wait()

    pid = start(act)
    assert len(kill.members(stage.uid, pid)) == 2
    assert kill.kill_all(stage.uid, pid) == 0


def test_other_processes_live_on(stage: "Stage", start: Start) -> None:
    """Ending one submission touches neither the grader's processes nor another submission's."""
    bystander = os.fork()
    if bystander == 0:
        signal.pause()
        os._exit(0)
    try:
        first, second = start(lambda: None), start(lambda: None)
        # Both have the stage's uid, so only sessions tell them apart.
        assert kill.kill_all(None, first) == 0
        assert kill.members(None, second) == [second]
        assert kill.kill_all(stage.uid, second) == 0
        assert os.waitpid(bystander, os.WNOHANG) == (0, 0)
    finally:
        os.kill(bystander, signal.SIGKILL)
        os.waitpid(bystander, 0)


@_as_root
def test_a_uid_is_killed_beyond_its_session(stage: "Stage", start: Start) -> None:
    """With a uid of its own, what left the session (where no wall forbids it) ends as well."""
    receiver, sender = os.pipe()
    assert stage.uid is not None
    pid = os.fork()
    if pid == 0:
        os.setresgid(stage.uid, stage.uid, stage.uid)
        os.setresuid(stage.uid, stage.uid, stage.uid)
        if os.fork() == 0:
            os.setsid()
            os.write(sender, b"x")
            while True:
                signal.pause()
        while True:
            signal.pause()
    os.read(receiver, 1)
    os.close(receiver)
    os.close(sender)
    assert len(kill.members(stage.uid, pid)) == 2
    assert kill.kill_all(stage.uid, pid) == 0
    os.waitpid(pid, 0)


def test_memory_sums_over_processes(stage: "Stage", start: Start) -> None:
    """What two processes hold counts twice, and not more."""

    def act() -> None:
        before = bytearray(b"x") * (60 << 20)
        ready, told = os.pipe()
        if os.fork() == 0:
            own = bytearray(b"y") * (60 << 20)
            os.write(told, b"x")
            while own and before:
                signal.pause()
        os.read(ready, 1)
        _kept.append(before)

    pid = start(act)
    alone = kill.memory_of(stage.uid, pid, inherited=_anonymous("self"))
    assert 175 << 20 <= alone <= 260 << 20  # 60 in the parent, 60 shared and 60 own in the child
    assert kill.memory_of(stage.uid, pid) > alone


_kept: list[bytearray] = []


def _hold(held: bytearray) -> None:
    while held:
        time.sleep(600)


def _anonymous(process: str) -> int:
    return int(kernel.status(process)["RssAnon"].split()[0]) * 1024


def test_memory_is_counted_when_the_first_thread_has_ended(stage: "Stage", start: Start) -> None:
    """A process whose first thread ended looks dead in `ps`; its memory counts, and it is killed."""
    libc = ctypes.CDLL(None)

    def act() -> None:
        if (child := os.fork()) == 0:
            held = bytearray(b"x") * (80 << 20)
            threading.Thread(target=_hold, args=(held,)).start()
            libc.syscall(60 if os.uname().machine == "x86_64" else 93, 0)  # ends this thread only
        while not kernel.status(child).get("State", "").startswith("Z"):
            time.sleep(0.01)

    pid = start(act)
    assert kill.memory_of(stage.uid, pid) > 80 << 20
    assert len(kill.members(stage.uid, pid)) == 2
    assert kill.kill_all(stage.uid, pid) == 0


@_as_root
def test_files_in_shared_memory_count_and_go(stage: "Stage", start: Start) -> None:
    """Where Landlock does not stand, a file in /dev/shm counts as memory, and is removed in the end."""
    path = Path("/dev/shm") / f"selftest-{os.getpid()}"
    pid = start(lambda: path.write_bytes(bytes(20 << 20)))
    assert stage.uid is not None
    assert kill.memory_of(stage.uid, pid, inherited=1 << 40) == 20 << 20
    kill.kill_all(stage.uid, pid)
    assert kill.leftovers(stage.uid) == 1
    assert not path.exists()


@_as_root
def test_leftovers_are_removed_and_nothing_else(stage: "Stage", start: Start) -> None:
    """Files, links and deep trees of the uid go; what a link points to and files of others stay."""
    mine = Path("/tmp") / f"selftest-{os.getpid()}"
    shared = Path("/tmp") / f"selftest-shared-{os.getpid()}"
    shared.mkdir()
    shared.chmod(0o777)
    (shared / "grader").write_text("x")

    def act() -> None:
        mine.mkdir()
        (mine / "link").symlink_to(stage.world_readable)
        (shared / "nested").mkdir()
        (shared / "nested" / "file").write_text("x")
        os.chdir(mine)
        for _ in range(1200):
            Path("d").mkdir()
            os.chdir("d")

    pid = start(act)
    assert stage.uid is not None
    kill.kill_all(stage.uid, pid)
    assert kill.leftovers(stage.uid) >= 1204
    assert not mine.exists()
    assert [path.name for path in shared.iterdir()] == ["grader"]
    shutil.rmtree(shared)
    assert stage.world_readable.read_text() == "readable"
    assert not [path for path in Path("/tmp").iterdir() if path.lstat().st_uid == stage.uid]


def test_a_new_uid_is_high_and_unused() -> None:
    """No two draws agree, and none is one that accounts or processes have."""
    drawn = {kill.new_uid() for _ in range(20)}
    assert len(drawn) == 20
    used = {int(uid) for pid in kernel.processes() for uid in kernel.status(pid).get("Uid", "").split()}
    assert not drawn & used
    assert min(drawn) >= 10_000


def test_a_container_with_few_ids_is_served_or_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A rootless container's 65536 ids give an unused high one; fewer than that is an error that says so."""
    real = Path.read_text

    def mapped(count: int) -> None:
        def read(path: Path, *args: str, **kwargs: str) -> str:
            return f"0 100000 {count}\n" if path.name in {"uid_map", "gid_map"} else real(path, *args, **kwargs)

        monkeypatch.setattr(Path, "read_text", read)

    mapped(65536)
    assert 20_000 < kill.new_uid() < 65_534
    mapped(1)
    with pytest.raises(MachineError, match="only 1 user ids"):
        kill.new_uid()
