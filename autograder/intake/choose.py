"""Second step of intake: which of the listed files is the main one, and which helpers go with it."""

import keyword
import sys
from collections.abc import Sequence

import msgspec

from autograder.errors import SubmissionError
from autograder.intake.wording import listed

__all__ = ["Choice", "choose", "is_python", "only_zip"]


class Choice(msgspec.Struct, frozen=True):
    """What is read of a listing.

    Attributes:
        main: The main file's path in the listing.
        helpers: Module path of each helper, such as "layers/conv.py", to its path in the listing.
        notes: Sentences about what is not read, and why.
    """

    main: str
    helpers: dict[str, str]
    notes: tuple[str, ...] = ()


def is_python(name: str) -> bool:
    """Tell whether a file is a Python source or a notebook, by its name."""
    return name.lower().endswith((".py", ".ipynb"))


def only_zip(names: Sequence[str]) -> str | None:
    """Return the one zip at the root of a folder that holds no Python file, or None."""
    zips = [name for name in names if "/" not in name and name.lower().endswith(".zip")]
    return zips[0] if len(zips) == 1 and not any(is_python(name) for name in names) else None


def choose(names: Sequence[str], entry: str, where: str) -> Choice:
    """Choose the main file and the helpers beside it.

    `<entry>.py` or `<entry>.ipynb` wins, in any case where none is written exactly so; otherwise the only Python
    file or notebook at the root. One wrapping folder is looked through.

    Args:
        names: Paths in the listing.
        entry: The main module's import name.
        where: What was handed in, for sentences.

    Raises:
        SubmissionError: There is no candidate, or more than one.
    """
    python = [name for name in names if is_python(name)]
    root = _root(python)
    tops = [name for name in python if "/" not in name.removeprefix(root) and not name.endswith("__init__.py")]
    main = _main(tops, python, root, entry, where)
    helpers: dict[str, str] = {}
    odd: list[str] = []
    notebooks: list[str] = []
    for name in python:
        key = name.removeprefix(root)
        if name == main:
            continue
        if key.lower().endswith(".ipynb"):
            notebooks.append(key)
        elif _importable(key, entry):
            helpers[key] = name
        else:
            odd.append(key)
    others = [name.removeprefix(root) for name in names if not is_python(name)]
    own = sorted({key.split("/")[0].removesuffix(".py") for key in helpers} & sys.stdlib_module_names)
    notes = (
        (notebooks, "Not read, because the main file is {main}: {names}."),
        (odd, "Not read, because Python cannot import a file of this name: {names}."),
        (others, "Not read, because only .py and .ipynb files are: {names}."),
        (own, "A module of Python's own has the same name, so importing it may give that one: {names}."),
    )
    return Choice(
        main,
        helpers,
        tuple(
            text.format(main=listed([main.removeprefix(root)]), names=listed(found)) for found, text in notes if found
        ),
    )


def _root(python: Sequence[str]) -> str:
    """Return the wrapping folder with its slash, or nothing."""
    folders = {name.split("/")[0] if "/" in name else "" for name in python}
    return f"{folders.pop()}/" if len(folders) == 1 and "" not in folders else ""


def _main(tops: list[str], python: list[str], root: str, entry: str, where: str) -> str:
    wanted = (f"{entry}.py", f"{entry}.ipynb")
    exact = [name for name in tops if name.removeprefix(root) in wanted]
    nearly = [name for name in tops if name.removeprefix(root).lower() in {name.lower() for name in wanted}]
    candidates = exact or nearly or tops
    if len(candidates) == 1:
        return candidates[0]
    if candidates:
        remedy = (
            "hand in one of them only" if exact or nearly else f"name the one to be graded {entry}.py or {entry}.ipynb"
        )
        raise SubmissionError(f"{where} holds {len(candidates)} candidates, {listed(candidates)}: {remedy}.")
    found = f" (it holds {listed(python)})" if python else ""
    raise SubmissionError(f"No {entry}.py or {entry}.ipynb was found in {where}{found}: hand it in at the top.")


def _importable(key: str, entry: str) -> bool:
    if not key.endswith(".py"):
        return False
    parts = key.removesuffix(".py").split("/")
    # Beside submission.py, a folder of that name would be imported in its place.
    return parts[0] != entry and all(part.isidentifier() and not keyword.iskeyword(part) for part in parts)
