"""A Python that lies behind a closed directory stays importable, and opens nothing else behind that directory."""

import importlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import autograder
from autograder.sandbox import reach, walls

if TYPE_CHECKING:
    from selftests.sandbox.conftest import Stage

_as_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, for another uid to become")


@pytest.fixture
def handle(stage: "Stage", monkeypatch: pytest.MonkeyPatch) -> Iterator[reach.Handle]:
    """A library behind a closed directory, on `sys.path`, beside a secret and below an open directory with a file."""
    library = stage.base / "closed" / "open" / "lib"
    (library / "late_package").mkdir(parents=True)
    (library / "late_package" / "__init__.py").write_text("")
    (library / "late_package" / "part.py").write_text("ANSWER = 42\n")
    (library / "late_module.py").write_text("ANSWER = 41\n")
    (stage.base / "closed" / "secret").write_text("secret")
    (stage.base / "closed" / "open" / "beside").write_text("beside")
    (stage.base / "closed").chmod(0o700)
    monkeypatch.syspath_prepend(str(library))
    monkeypatch.delitem(sys.modules, "late_package", raising=False)
    importlib.import_module("late_package")
    opened = reach.Handle(str(library), os.open(library, os.O_PATH))
    yield opened
    os.close(opened.fd)
    sys.modules.pop("late_package", None)
    sys.modules.pop("late_module", None)


def test_tells_what_another_user_can_walk_to(stage: "Stage", handle: reach.Handle) -> None:
    """One closed directory on the way is enough, also behind a symbolic link."""
    link = stage.base / "link"
    link.symlink_to(handle.path)
    assert reach.unreachable(handle.path)
    assert reach.unreachable(str(link))
    assert not reach.unreachable(str(stage.world_readable))
    assert not reach.unreachable("/")


def test_the_checkout_is_no_root() -> None:
    """Python's library and the installed packages are roots; the checkout on `sys.path` is not."""
    roots = reach.roots()
    package = Path(autograder.__file__).parent
    if "site-packages" not in package.parts:
        assert not any(package.is_relative_to(root) for root in roots)
    for module in (os, pytest):
        assert module.__file__ is not None
        assert any(Path(module.__file__).is_relative_to(root) for root in roots)


@_as_root
def test_late_imports_work_through_a_handle(stage: "Stage", handle: reach.Handle) -> None:
    """A module, and a part of a package loaded before, can be imported after the change of user."""

    def act(_: "Stage") -> list[int]:
        reach.use_handles((handle,))
        module = importlib.import_module("late_module")
        part = importlib.import_module("late_package.part")
        return [module.ANSWER, part.ANSWER]

    def without(_: "Stage") -> None:
        importlib.import_module("late_module")

    policy = stage.policy(("uid",))
    assert stage.attempt(act, policy) == ("done", [41, 42])
    assert stage.attempt(without, policy)[0] == "broken"


@_as_root
def test_a_handle_leads_up_as_far_as_it_says(stage: "Stage", handle: reach.Handle) -> None:
    """`..` reaches what `exposed` names and stops at the closed directory; with Landlock it reaches nothing."""
    assert reach.exposed((handle,)) == (str(stage.base / "closed" / "open"),)

    def beside(_: "Stage") -> str:
        return Path(f"/proc/self/fd/{handle.fd}/../beside").read_text()

    def above(_: "Stage") -> str:
        return Path(f"/proc/self/fd/{handle.fd}/../../secret").read_text()

    assert stage.attempt(beside, stage.policy(("uid",))) == ("done", "beside")
    assert stage.attempt(above, stage.policy(("uid",))) == ("refused", "EACCES")
    if "landlock" not in walls.missing():
        # Descriptors stay open here, as the handle is not one that the walls know.
        assert stage.attempt(beside, stage.policy(("uid", "landlock"))) == ("refused", "EACCES")


def test_late_imports_work_on_this_machine(stage: "Stage") -> None:
    """Behind all walls, parts of the standard library never imported before load, pure and compiled."""
    names = [name for name in ("wave", "colorsys", "sqlite3", "_lsprof") if name not in sys.modules]

    def act(_: "Stage") -> list[str]:
        return [importlib.import_module(name).__name__ for name in names]

    assert stage.attempt(act) == ("done", names)


@_as_root
def test_a_zygote_may_use_its_handles_for_all(stage: "Stage") -> None:
    """Handles that the zygote has put to use survive the closing of descriptors, and importing works."""

    def zygote() -> int:
        handles = reach.open_handles()
        reach.use_handles(handles)
        with walls.prepare(stage.policy(), handles) as prepared:
            assert prepared.opened == ()
            pid = os.fork()
            if pid == 0:
                walls.enter(prepared, ())
                importlib.import_module("colorsys")
                importlib.import_module("_lsprof")
                os._exit(0)
            return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

    pid = os.fork()  # the rewritten paths stay in this fork
    if pid == 0:
        code = 1
        try:
            code = zygote()
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
