"""Notebooks, first step: JSON to code cells, each parsed as IPython reads it, with the student's line numbers kept."""

import ast
import json
import re
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from autograder.errors import SubmissionError
from autograder.intake.submission import Limits
from autograder.intake.syntax import parse
from autograder.intake.wording import listed, shown

__all__ = ["Cell", "read_cells"]

# Cell magics whose body is Python that runs in the notebook itself.
_PYTHON_MAGICS = frozenset(
    {
        "black",
        "capture",
        "debug",
        "memit",
        "notify",
        "prun",
        "pyinstrument",
        "scalene",
        "snakeviz",
        "time",
        "timeit",
        "wandb",
    }
)
_CELL_MAGIC = re.compile(r"\s*%%(\w+)")
_DEFINED = re.compile(r"^[ \t]*(?:class|(?:async[ \t]+)?def)[ \t]+(\w+)", re.MULTILINE)
_LONGEST_LINE = 1_000  # IPython's patterns take time quadratic in the length of a line
# IPython reads the whole cell again for each magic in it.
_MOST_MAGICS = 100
_MOST_TOKENIZED = 2 * 1024**2


class Cell(msgspec.Struct, frozen=True):
    """One code cell that Python can read.

    Attributes:
        number: Its place among the code cells, from 1.
        lines: Its text, magics replaced.
        numbers: For each of these lines, its number in the cell as the student sees it.
        body: Its top-level statements; their line numbers count in `lines`.
    """

    number: int
    lines: list[str]
    numbers: list[int]
    body: list[ast.stmt]


def read_cells(data: bytes, name: str, limits: Limits) -> tuple[list[Cell], list[str]]:
    """Read a notebook's code cells.

    Args:
        data: The notebook's bytes, any version of the format.
        name: Its file name, for sentences.
        limits: How much to read.

    Returns:
        The cells that Python can read, and sentences on those that it cannot.

    Raises:
        SubmissionError: It is not a notebook, or its code is too large.
    """
    cells: list[Cell] = []
    notes: list[str] = []
    tokenized = [0]
    sources = list(_sources(data, name, limits))
    if sum(len(source) for source in sources) > limits.source_bytes:
        raise SubmissionError(
            f"The code in {name} is larger than {limits.source_bytes >> 10} KiB: leave data out of it."
        )
    for number, source in enumerate(sources, 1):
        text = source.replace("\r\n", "\n").replace("\r", "\n")
        lines, magic = _without_magic(text.split("\n"))
        if magic:
            if missing := _DEFINED.findall(text):
                notes.append(
                    f"{name}, cell {number} is left out, because it is a %%{shown(magic)} cell{_without(missing)}."
                )
            continue
        numbers = list(range(1, len(lines) + 1))
        try:
            try:
                body = parse("\n".join(lines)).body
            except SyntaxError:
                lines, numbers = _transformed(lines, tokenized)
                body = parse("\n".join(lines)).body
        except SyntaxError as error:
            at = error.lineno or 0
            where = f", line {numbers[at - 1]}" if 0 < at <= len(numbers) else ""
            row = lines[at - 1] if 0 < at <= len(lines) else ""
            reason = shown(error.msg or "invalid syntax", 200) + (f" in `{shown(row)}`" if row.strip() else "")
            missing = _DEFINED.findall(text)
            notes.append(f"{name}, cell {number}{where}: {reason}; the cell is left out{_without(missing)}.")
        else:
            cells.append(Cell(number, lines, numbers, body))
    return cells, notes


def _without(missing: list[str]) -> str:
    return (
        f", so {listed(dict.fromkeys(missing))} {'is' if len(set(missing)) == 1 else 'are'} missing" if missing else ""
    )


def _sources(data: bytes, name: str, limits: Limits) -> Iterator[str]:
    """Yield each code cell's text."""
    if data.count(b"{") + data.count(b"[") > limits.notebook_brackets:
        raise SubmissionError(f"{name} is too large to be read: clear its outputs and hand it in again.")
    try:
        raw: Any = json.loads(data.decode("utf-8-sig"))
        # nbformat is slow to import, and refuses notebooks whose metadata are broken: it reads the older formats alone.
        cells: Any = raw.get("cells") if raw.get("nbformat") == 4 else _upgraded(raw)
    except Exception as error:  # on malformed notebooks, nbformat lets errors of every kind through
        raise SubmissionError(
            f"{name} is not a readable notebook ({shown(str(error) or type(error).__name__)}): save it again."
        ) from error
    if not isinstance(cells, list):
        raise SubmissionError(f"{name} is not a notebook, for it holds no cells: save it again from Jupyter.")
    for cell in cells:
        if isinstance(cell, Mapping) and cell.get("cell_type") == "code":
            source = cell.get("source")
            source = "".join(map(str, source)) if isinstance(source, list) else source
            yield source if isinstance(source, str) else ""


def _upgraded(raw: Any) -> Any:
    """Return an older notebook's cells as version 4 has them."""
    if raw.get("nbformat") not in (1, 2, 3):
        raise ValueError(f"nbformat is {raw.get('nbformat')!r}")
    import nbformat  # noqa: PLC0415
    import nbformat.reader  # noqa: PLC0415

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        older = nbformat.reader.reads(json.dumps(raw))  # type: ignore[no-untyped-call]
        return nbformat.convert(older, 4)["cells"]  # type: ignore[no-untyped-call]


def _without_magic(lines: list[str]) -> tuple[list[str], str]:
    """Blank the cell magics that run Python; returns the lines and the name of the magic that does not, if any."""
    lines = list(lines)
    for index, line in enumerate(lines):
        if not line.strip():
            continue
        match = _CELL_MAGIC.match(line)
        if not match:
            break
        if match[1] not in _PYTHON_MAGICS:
            return lines, match[1]
        lines[index] = ""
    return lines, ""


def _transformed(lines: list[str], tokenized: list[int]) -> tuple[list[str], list[int]]:
    """Let IPython replace magics, shell lines and prompts; returns the lines and the number of each in the cell.

    It works one step at a time, since a step may join lines, and `transform_cell` does not say which.

    Raises:
        SyntaxError: A line is too long, or there are too many magics to go through.
    """
    for number, line in enumerate(lines, 1):
        if len(line) > _LONGEST_LINE:
            raise SyntaxError(
                f"notebook commands in a cell with a line of over {_LONGEST_LINE} characters", ("", number, 0, "")
            )
    # Slow to import; most cells are plain Python and come by without.
    from IPython.core.inputtransformer2 import TransformerManager  # noqa: PLC0415

    manager: Any = TransformerManager()  # type: ignore[no-untyped-call]
    text = [line + "\n" for line in lines]
    numbers = list(range(1, len(lines) + 1))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for transform in manager.cleanup_transforms:
                after = transform(text)
                text, numbers = after, _renumbered(text, after, numbers)
            changed, steps = True, 0
            while changed:
                steps += 1
                tokenized[0] += sum(map(len, text))
                if steps > _MOST_MAGICS or tokenized[0] > _MOST_TOKENIZED:
                    raise SyntaxError("too many notebook commands")  # noqa: TRY301  # it is passed through below
                changed, after = manager.do_one_token_transform(text)
                text, numbers = after, _renumbered(text, after, numbers)
    except SyntaxError:
        raise
    except Exception as error:  # IPython and tokenize let errors of many kinds through
        raise SyntaxError(str(error)) from error
    return [line.rstrip("\n") for line in text], numbers


def _renumbered(before: list[str], after: list[str], numbers: list[int]) -> list[int]:
    """Line numbers after one step, which changed or removed lines in one place only."""
    removed = len(before) - len(after)
    if removed <= 0:
        return numbers
    same = 0
    while same < len(after) and before[-1 - same] == after[-1 - same]:
        same += 1
    head = len(after) - same
    return numbers[:head] + numbers[head + removed :]
