"""Layer 6: the command line. Parses arguments, prints, chooses the exit code; all work is done elsewhere.

Exit codes: 0 graded, whatever the score; 1 the machine or the suite failed; 2 usage.
"""

import json
import os
import secrets
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from autograder import __version__
from autograder.assignment import read_assignment
from autograder.errors import AutograderError, UsageError
from autograder.job import Job
from autograder.report import Report
from autograder.session import Session

__all__ = ["app", "main"]

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Grade PyTorch homework from the other side of a wall.",
)

_WRITE_SECONDS = 1.0
"""How often the results so far are written while tests are judged."""


class _ResultsFile:
    """`results.json`, valid at every instant: written before anything runs, replaced as tests end."""

    def __init__(self, path: Path | None, assignment: str, staff: dict[str, Any] | None = None) -> None:
        self._path = path
        self._staff = staff or {}
        self.write(Report(assignment=assignment, tests=(), problems=("Grading has not finished.",), complete=False))
        self._written = 0.0

    def update(self, report: Report) -> None:
        """Write the report so far, unless that was done a moment ago."""
        if time.monotonic() - self._written >= _WRITE_SECONDS:
            self.write(report)

    def write(self, report: Report) -> None:
        """Write the report now."""
        if self._path is not None:
            from autograder.reporters.gradescope import write_results  # noqa: PLC0415  # costs start-up only when used

            write_results(msgspec.structs.replace(report, staff={**report.staff, **self._staff}), self._path)
            self._written = time.monotonic()


@app.command()
def grade(
    assignment: Annotated[str, typer.Argument(help="Name of the assignment, such as cnn, or its folder.")],
    submission: Annotated[Path, typer.Argument(help="A .py, an .ipynb, a folder, or a .zip of either.")],
    results: Annotated[Path | None, typer.Option(help="Write Gradescope's results.json here.")] = None,
    seed: Annotated[int | None, typer.Option(help="The secret seed; drawn anew when absent.", min=0)] = None,
    verbose: Annotated[bool, typer.Option("--verbose", help="Show passed tests and staff data, too.")] = False,
    unsafe: Annotated[bool, typer.Option("--unsafe", help="Grade even where no wall stands.")] = False,
) -> None:
    """Grade one submission and print the report."""
    found = read_assignment(assignment)
    if not submission.exists():
        raise UsageError(f"There is no submission at {submission}; give a .py, an .ipynb, a folder or a .zip.")
    if results is not None and not results.absolute().parent.is_dir():
        raise UsageError(f"There is no folder {results.absolute().parent} to write {results.name} into; make it first.")
    with Session() as session:
        from rich.console import Console  # noqa: PLC0415  # loaded while the worker loads torch

        from autograder.reporters.terminal import render  # noqa: PLC0415

        job = Job(
            assignment=str(found.folder),
            submission=str(submission.absolute()),
            seed=secrets.randbits(63) if seed is None else seed % 2**63,
            seconds=found.limits.total_seconds,
            unsafe=unsafe,
        )
        report = _grade(session, job, _ResultsFile(results, found.name))
        render(report, Console(), verbose=verbose)
    raise typer.Exit(1 if report.ungraded else 0)


def _grade(session: Session, job: Job, file: _ResultsFile) -> Report:
    """Grade and write; where not even the tests could be declared, the file says so, and staff find out why."""
    try:
        report = session.grade(job, file.update)
    except AutograderError as error:
        name = Path(job.assignment).name
        problem = "The autograder itself failed, so this submission is not graded; that is no verdict on your work."
        file.write(Report(assignment=name, tests=(), problems=(problem,), staff={"error": str(error)}))
        raise
    file.write(report)
    return report


@app.command()
def gradescope(
    root: Annotated[Path, typer.Option(help="Gradescope's folder.")] = Path("/autograder"),
) -> None:
    """Grade as Gradescope asks: ROOT/submission in, ROOT/results/results.json out. Called by run_autograder."""
    names = sorted(path.parent.name for path in (root / "source" / "assignments").glob("*/assignment.toml"))
    if len(names) != 1:
        raise UsageError(f"{root}/source/assignments must hold one assignment, found {names}; build the zip again.")
    found = read_assignment(str(root / "source" / "assignments" / names[0]))
    metadata = _metadata(root / "submission_metadata.json")
    file = _ResultsFile(root / "results" / "results.json", found.name, metadata)
    with Session() as session:
        job = Job(
            assignment=str(found.folder),
            submission=str(root / "submission"),
            seed=secrets.randbits(63),
            seconds=_seconds(found.limits.total_seconds),
        )
        report = _grade(session, job, file)
    typer.echo(f"{report.assignment}: {report.score:g} of {report.max_score:g} in {report.seconds:.1f} s")


def _seconds(total: float) -> float:
    """The time a run may take: its own limit, or less where the platform ends it sooner."""
    try:
        limit = float(os.environ["TIMEOUT_SECONDS"])
    except (KeyError, ValueError):
        return total
    # Past the platform's limit the results are lost: leave time to start, to end, and to write.
    return max(5.0, min(total, limit * 0.9 - 30.0))


def _metadata(path: Path) -> dict[str, Any]:
    """What the platform says of the submission, for staff; metadata that is absent or cannot be read changes nothing."""
    try:
        metadata = json.loads(path.read_text(encoding="utf-8"))
        kept = {key: metadata[key] for key in ("id", "created_at", "submission_method") if key in metadata}
        previous = metadata.get("previous_submissions") or []
        # entries in which the autograder itself failed do not count as attempts
        kept["attempt"] = 1 + sum(1 for entry in previous if not entry.get("autograder_error"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, AttributeError, TypeError) as error:
        return {"submission": {"unreadable": f"{type(error).__name__}: {error}"[:200]}}
    return {"submission": kept}


@app.command()
def bundle(
    assignment: Annotated[str, typer.Argument(help="Name of the assignment, such as cnn, or its folder.")],
    out: Annotated[Path | None, typer.Option(help="The zip to write; NAME-gradescope.zip when absent.")] = None,
) -> None:
    """Build the zip that Gradescope's "Configure Autograder" page takes."""
    from autograder.bundle import bundle as build  # noqa: PLC0415

    found = read_assignment(assignment)
    target = out or Path(f"{found.name}-gradescope.zip")
    members = build(found.folder.parent.parent, found.name, target)
    typer.echo(f"{target}: {len(members)} files, {target.stat().st_size / 1024:.0f} kB; upload it as it is.")


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"autograder {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[  # noqa: ARG001  # its callback does the work
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False,
) -> None:
    if debug:
        os.environ["AUTOGRADER_DEBUG"] = "1"


def main() -> None:
    """Run the command line; an error of ours is one sentence."""
    try:
        app()
    except AutograderError as error:
        if os.environ.get("AUTOGRADER_DEBUG"):
            typer.echo(error.trace, err=True)
            raise
        typer.echo(f"autograder: {error}", err=True)
        sys.exit(2 if isinstance(error, UsageError) else 1)
