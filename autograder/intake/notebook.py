"""Notebooks: JSON in, one Python source out, in which only imports, definitions and simple assignments are left."""

import ast
import builtins
from collections import Counter
from collections.abc import Sequence

import msgspec

from autograder.errors import SubmissionError
from autograder.intake.cells import Cell, read_cells
from autograder.intake.harmless import Keeper, leaves
from autograder.intake.names import anywhere, bound, depth, needed
from autograder.intake.order import ordered
from autograder.intake.submission import Limits
from autograder.intake.syntax import parse
from autograder.intake.wording import listed, shown

__all__ = ["Woven", "convert"]

_DEEPEST = 100  # so that Python's recursion limit is far from what looks at a statement
_MOST_NOTES = 10


class Woven(msgspec.Struct, frozen=True):
    """A notebook as Python source.

    Attributes:
        source: The generated source, which Python can parse.
        origin: Each of its lines' place in the notebook, such as "cell 3, line 5".
        notes: Sentences on what was left out.
    """

    source: str
    origin: tuple[str, ...]
    notes: tuple[str, ...]


class _Piece(msgspec.Struct, frozen=True):
    """One kept statement: its syntax tree, its text, and where each line of the text stands in the notebook."""

    node: ast.stmt
    text: list[str]
    places: list[str]


def convert(data: bytes, name: str, helpers: frozenset[str], limits: Limits) -> Woven:
    """Turn a notebook into a module that defines what the notebook defines, and does no work when imported.

    Imports come first, then the other kept statements in cell order, except that what a definition needs when it is run
    comes before it. The text is the student's own. A definition wins over an import of the same name.

    Args:
        data: The notebook's bytes.
        name: Its file name, for sentences.
        helpers: Names of modules that were handed in with it.
        limits: How much to read.

    Raises:
        SubmissionError: It is not a notebook, or nothing in it defines a function or class.
    """
    cells, notes = read_cells(data, name, limits)
    keeper = Keeper.of(node for cell in cells for node in cell.body if depth(node) <= _DEEPEST)
    pieces = [piece for cell in cells for node in cell.body if (piece := _piece(cell, node, keeper))]
    pieces, lost = _without_dependents(pieces, keeper.dropped)
    if not any(_defines(piece.node, helpers) for piece in pieces):
        raise SubmissionError(
            " ".join((f"{name} defines no function or class that can be read.", *notes[:_MOST_NOTES]))
        )
    notes = [*notes, *_missed(pieces, lost, name)]
    if len(notes) > _MOST_NOTES:
        notes = [*notes[:_MOST_NOTES], f"{name}: {len(notes) - _MOST_NOTES} more parts are left out."]
    text: list[str] = []
    places: list[str] = []
    for piece in _arranged(pieces):
        text += piece.text
        places += piece.places
    source = "\n".join(text) + "\n"
    try:
        parse(source)
    except SyntaxError as error:
        raise SubmissionError(f"{name} cannot be turned into Python ({error.msg}): hand in a .py file.") from error
    return Woven(source, tuple(places), tuple(notes))


def _piece(cell: Cell, node: ast.stmt, keeper: Keeper) -> _Piece | None:
    try:
        kept = keeper.keep(node)
        if kept is None:
            return None
        first = min([node.lineno, *(part.lineno for part in getattr(node, "decorator_list", []))])
        text = _text(cell, node, first) if kept is node else ast.unparse(kept).split("\n")
    except RecursionError:
        return None  # nested too deeply to look at
    last = len(cell.numbers)
    lines = [cell.numbers[min(first + offset, last) - 1] for offset in range(len(text))]
    if kept is not node:
        lines = [cell.numbers[first - 1]] * len(text)
    return _Piece(kept, text, [f"cell {cell.number}, line {line}" for line in lines])


def _text(cell: Cell, node: ast.stmt, first: int) -> list[str]:
    """The statement's own text; where its lines hold others too, only its part of them."""
    end, stop = node.end_lineno or node.lineno, node.end_col_offset or 0
    rows = [line.encode() for line in cell.lines[first - 1 : end]]
    if not hasattr(node, "body"):
        rows[-1] = rows[-1][:stop]
        rows[0] = rows[0][node.col_offset :]
    text = [row.decode() for row in rows]
    try:
        same = ast.dump(parse("\n".join(text))) == ast.dump(ast.Module([node], []))
    except SyntaxError:
        same = False
    except RecursionError:
        same = True  # too deep to compare, not to read
    return text if same else ast.unparse(node).split("\n")


def _without_dependents(pieces: list[_Piece], dropped: Sequence[ast.stmt]) -> tuple[list[_Piece], set[str]]:
    """Leave out assignments that need what was left out; returns the rest, and the names that are lost."""
    binders = Counter(name for piece in pieces for name in bound(piece.node))
    users: dict[str, list[int]] = {}
    for index, piece in enumerate(pieces):
        if isinstance(piece.node, ast.Assign | ast.AnnAssign | ast.AugAssign):
            for name in needed(piece.node, annotations=False):
                users.setdefault(name, []).append(index)
    known = set(vars(builtins))
    waiting = [name for node in dropped for name in bound(node)]
    lost: set[str] = set()
    gone: set[int] = set()
    while waiting:
        name = waiting.pop()
        if name in lost or name in known or binders[name]:
            continue
        lost.add(name)
        for index in set(users.get(name, ())) - gone:
            gone.add(index)
            binders.subtract(bound(pieces[index].node))
            waiting += bound(pieces[index].node)
    return [piece for index, piece in enumerate(pieces) if index not in gone], lost


def _missed(pieces: Sequence[_Piece], lost: set[str], name: str) -> list[str]:
    """Sentences on lost names that a kept definition uses."""
    users: dict[str, list[str]] = {}
    for piece in pieces:
        if isinstance(piece.node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            for missing in sorted(anywhere(piece.node) & lost):
                users.setdefault(missing, []).append(piece.node.name)
    return [
        f"{name}: `{shown(missing)}` is left out, because of a notebook only imports, definitions and simple "
        f"assignments are read, but {listed(dict.fromkeys(by))} uses it: set it there, or pass it as an argument."
        for missing, by in users.items()
    ]


def _defines(node: ast.stmt, helpers: frozenset[str]) -> bool:
    for part in leaves([node]):
        if isinstance(part, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            return True
        if isinstance(part, ast.Assign) and isinstance(part.value, ast.Lambda):
            return True
        if isinstance(part, ast.ImportFrom) and (part.module or "").split(".")[0] in helpers:
            return True
    return False


def _arranged(pieces: Sequence[_Piece]) -> list[_Piece]:
    """Future imports, other imports, each once; then the rest as `ordered` says."""
    rest = [piece for piece in pieces if not isinstance(piece.node, ast.Import | ast.ImportFrom)]
    bound_later = {name for piece in rest if not _imports(piece.node) for name in bound(piece.node)}
    futures: dict[str, _Piece] = {}
    imports: dict[str, _Piece] = {}
    others: list[_Piece] = []
    for piece in pieces:
        node = piece.node
        if isinstance(node, ast.ImportFrom) and node.module == "__future__":
            futures.setdefault(ast.unparse(node), piece)
        elif isinstance(node, ast.Import | ast.ImportFrom) or (
            _imports(node) and not needed(node, annotations=True) & bound_later
        ):
            imports.setdefault(ast.unparse(node), piece)
        else:
            others.append(piece)
    imported = frozenset(name for piece in imports.values() for name in bound(piece.node))
    annotations = not any("annotations" in text for text in futures)
    order = ordered([piece.node for piece in others], imported, annotations=annotations)
    return [*futures.values(), *imports.values(), *(others[index] for index in order)]


def _imports(node: ast.stmt) -> bool:
    """Tell whether a block holds imports and nothing else but plain constants, such as `HAS_PLOTS = False`."""
    parts = [part for part in leaves([node]) if not isinstance(part, ast.Pass)]
    plain = all(
        isinstance(part, ast.Import | ast.ImportFrom)
        or (isinstance(part, ast.Assign) and isinstance(part.value, ast.Constant))
        for part in parts
    )
    return plain and any(isinstance(part, ast.Import | ast.ImportFrom) for part in parts)
