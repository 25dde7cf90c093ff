"""Landlock grants a submission its scratch directory and Python, and nothing of the grader."""

import os
import socket
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import autograder
from autograder.errors import MachineError
from autograder.sandbox import landlock, reach, walls
from autograder.sandbox.policy import Policy

if TYPE_CHECKING:
    from selftests.sandbox.conftest import Stage

pytestmark = pytest.mark.skipif(not landlock.abi(), reason="this kernel or container has no Landlock")
_CHECKOUT = Path(autograder.__file__).parent


def test_scratch_is_a_place_to_work_in(stage: "Stage") -> None:
    """Inside the scratch directory, everything that programs do with files works."""

    def act(stage: "Stage") -> list[str]:
        place = stage.scratch / "a" / "b"
        place.mkdir(parents=True)
        (place / "one").write_text("1")
        (place / "one").rename(stage.scratch / "two")
        (stage.scratch / "link").symlink_to("two")
        os.truncate(stage.scratch / "two", 0)
        place.rmdir()
        place.parent.rmdir()
        return [*sorted(path.name for path in stage.scratch.iterdir()), (stage.scratch / "link").read_text()]

    assert stage.attempt(act, stage.policy(("landlock",))) == ("done", ["link", "two", ""])


def test_a_readable_path_is_not_writable(stage: "Stage") -> None:
    """The submission's own folder is granted for reading alone."""

    def read(stage: "Stage") -> str:
        return stage.private.read_text()

    def write(stage: "Stage") -> None:
        stage.private.write_text("x")

    only = stage.policy(("landlock",))
    assert stage.attempt(read, only) == ("done", "private")
    assert stage.attempt(write, only) == ("refused", "EACCES")


@pytest.mark.parametrize(
    "path",
    [_CHECKOUT / "errors.py", _CHECKOUT.parent / "pyproject.toml", Path("/etc/passwd"), Path("/proc/1/status")],
    ids=str,
)
def test_the_grader_is_not_readable(path: Path, stage: "Stage") -> None:
    """Neither the checkout, whose environment is granted, nor accounts nor other processes can be read."""
    if _CHECKOUT.is_relative_to(reach.roots()[-1]) or not path.exists():
        pytest.skip("the grader is installed as a package here")

    def act(_: "Stage") -> None:
        path.read_bytes()

    assert stage.attempt(act, stage.policy(("landlock",))) == ("refused", "EACCES")


def test_a_link_does_not_lead_out(stage: "Stage") -> None:
    """A symbolic link in the scratch directory, or a walk upwards from it, opens nothing that is not granted."""

    def link(stage: "Stage") -> None:
        (stage.scratch / "out").symlink_to(stage.world_readable)
        (stage.scratch / "out").read_text()

    def walk(stage: "Stage") -> None:
        here = os.open(stage.scratch, os.O_PATH)
        os.open("../open/readable.txt", os.O_RDONLY, dir_fd=here)

    def hard_link(stage: "Stage") -> None:
        os.link(stage.world_readable, stage.scratch / "hard")

    only = stage.policy(("landlock",))
    assert stage.attempt(link, only) == ("refused", "EACCES")
    assert stage.attempt(walk, only) == ("refused", "EACCES")
    assert stage.attempt(hard_link, only) in {("refused", "EACCES"), ("refused", "EXDEV")}


def test_a_fork_inherits_the_rules(stage: "Stage") -> None:
    """A child for one test stands behind the same wall as the template."""

    def act(stage: "Stage") -> int:
        pid = os.fork()
        if pid == 0:
            try:
                stage.world_readable.read_text()
            except PermissionError:
                os._exit(7)
            os._exit(0)
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

    assert stage.attempt(act, stage.policy(("landlock",))) == ("done", 7)


def test_abstract_sockets_do_not_lead_out(stage: "Stage") -> None:
    """From ABI 6 on, a socket with an abstract name that the grader listens on is out of reach."""
    if not landlock.scopes_signals():
        pytest.skip(f"Landlock ABI {landlock.abi()} does not scope sockets")
    name = f"\0{stage.base}"

    def act(_: "Stage") -> None:
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect(name)

    with socket.socket(socket.AF_UNIX) as server:
        server.bind(name)
        server.listen()
        assert stage.attempt(act, stage.policy(("landlock",))) == ("refused", "EPERM")
        assert stage.attempt(act, stage.policy(("descriptors",)))[0] == "done"


def test_a_missing_folder_is_named(stage: "Stage") -> None:
    """A granted path that is not there is the machine's fault, not a submission that mysteriously reads nothing."""
    policy = Policy(scratch=str(stage.scratch), readable=("/no/such/folder",))
    with pytest.raises(MachineError, match="/no/such/folder"):
        walls.prepare(policy)
