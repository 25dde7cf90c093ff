"""Shared by the selftests: one warm worker for all that grade, and the cases in `submissions/`."""

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from autograder.job import Job
from autograder.report import Report
from autograder.session import Session

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parent.parent

Grade = Callable[..., Report]


@dataclass(frozen=True)
class Case:
    """A sample submission and what must come of it.

    Attributes:
        path: Its folder.
        about: What is unusual or wrong, in a sentence.
        loses: The "part/aspect" cells in which it must lose points, and no others; "*" for all.
        cause: What the feedback must contain, in lower case; may be empty.
    """

    path: Path
    about: str
    loses: frozenset[str]
    cause: str


def read_cases(kind: str) -> list[Case]:
    """Every sample submission of a kind: "wheats" or "chaffs"."""
    cases = []
    for path in sorted((ROOT / "selftests" / "submissions" / kind).glob("*/expect.toml")):
        data = tomllib.loads(path.read_text(encoding="utf-8"))
        cases.append(Case(path.parent, data["about"], frozenset(data["loses"]), data.get("cause", "")))
    return cases


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--seeds N` grades every sample submission under N secret seeds instead of one."""
    parser.addoption("--seeds", type=int, default=1, help="secret seeds to grade each sample submission under")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test that asks for `secret_seed` runs once for each seed."""
    if "secret_seed" in metafunc.fixturenames:
        metafunc.parametrize("secret_seed", range(1, 1 + metafunc.config.getoption("--seeds")), ids="seed{}".format)


@pytest.fixture(scope="session")
def session() -> Iterator[Session]:
    """A worker that stays warm over all the tests that grade."""
    with Session() as session:
        yield session


@pytest.fixture
def grade(session: Session) -> Grade:
    """Grade a path with the warm worker."""

    def grade(path: Path, seed: int = 1, **options: object) -> Report:
        settings = {"assignment": "cnn", "submission": str(path), "seed": seed, "seconds": 300.0, **options}
        return session.grade(Job(**settings))  # type: ignore[arg-type]

    return grade
