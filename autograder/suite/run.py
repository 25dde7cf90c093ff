"""Layer 3: run a suite's folder through pytest, in this process, with our plugin and the suite's own conftest alone."""

import contextlib
import io
import os
import sys
from pathlib import Path

import pytest

from autograder.errors import SuiteError
from autograder.suite.plugin import GradePlugin

__all__ = ["run_suite"]

_last: list[Path] = []
"""The suite that this process ran last."""

_BACKSTOP = 30.0
"""Seconds beyond a test's own limit after which pytest-timeout steps in: the proxy's deadlines have not held."""


def run_suite(suite: Path, plugin: GradePlugin, test_seconds: float) -> None:
    """Collect and run every test in the folder.

    Args:
        suite: The folder that holds `test_*.py`.
        plugin: Receives what is declared and what is judged.
        test_seconds: A test's own limit.

    Raises:
        SuiteError: The suite could not be collected, or holds no test.
    """
    arguments = [
        str(suite),
        f"--rootdir={suite}",
        f"--confcutdir={suite}",
        # no configuration file of another project may reach the run
        "-c",
        os.devnull,
        "-p",
        "no:cacheprovider",
        # each collects garbage several times at the end of a run, for warnings nobody reads: a tenth of its time
        "-p",
        "no:unraisableexception",
        "-p",
        "no:threadexception",
        "-p",
        "pytest_timeout",
        f"--timeout={test_seconds * 4 + _BACKSTOP}",
        "--timeout-method=signal",
        "--assert=plain",
        # nobody reads what a suite prints; two lanes could not share one capture file
        "--capture=no",
        "-q",
    ]
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    _forget_last(suite)
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
        status = pytest.main(arguments, plugins=[plugin])
    if plugin.failure is not None:
        raise plugin.failure
    if plugin.collection_errors:
        raise SuiteError(
            f"The hidden suite could not be collected: {plugin.collection_errors[0]}; correct it and grade again."
        )
    if status not in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED, pytest.ExitCode.NO_TESTS_COLLECTED):
        tail = printed.getvalue().strip().splitlines()[-3:]
        raise SuiteError(f"The hidden suite could not be run (pytest's exit code {int(status)}): {' / '.join(tail)}")


def _forget_last(suite: Path) -> None:
    """Drop the modules of the suite that this process ran before: another suite may use the same names."""
    while _last and _last[0] != suite:
        folder = str(_last.pop())
        for name, module in list(sys.modules.items()):
            file = vars(module).get("__file__") if hasattr(module, "__dict__") else None
            if isinstance(file, str) and file.startswith(folder + os.sep):
                del sys.modules[name]
        while folder in sys.path:
            sys.path.remove(folder)
    _last[:] = [suite]
