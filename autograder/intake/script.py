"""Layer 3: a submission's source as messages and style checks need it: places in the student's words, lines, definitions."""

import ast
import contextlib
import difflib
import warnings

from autograder.intake.submission import Submission

__all__ = ["Script"]


class Script:
    """The student's files, read but never run."""

    def __init__(self, submission: Submission) -> None:
        self._submission = submission
        self._lines: dict[str, list[str]] = {}
        self._tree: ast.Module | None = None

    def place(self, file: str, line: int) -> str:
        """Where a line is, in the student's words: "submission.py, line 7"."""
        if file == self._submission.main:
            return self._submission.place(line)
        return f"{file}, line {line}"

    def line(self, file: str, line: int) -> str:
        """The line's text, or "" where there is none."""
        if file not in self._lines:
            text = self._submission.source() if file == self._submission.main else self._helper(file)
            self._lines[file] = text.splitlines()
        lines = self._lines[file]
        return lines[line - 1].strip()[:200] if 0 < line <= len(lines) else ""

    def _helper(self, file: str) -> str:
        return self._submission.files.get(file, b"").decode("utf-8", "replace")

    @property
    def tree(self) -> ast.Module:
        """The main file's syntax tree; empty where it has none."""
        if self._tree is None:
            self._tree = ast.Module([], [])
            with warnings.catch_warnings(), contextlib.suppress(SyntaxError, ValueError, RecursionError, MemoryError):
                warnings.simplefilter("ignore")
                self._tree = ast.parse(self._submission.files[self._submission.main])
        return self._tree

    def calls(self, name: str) -> frozenset[str]:
        """What the definition of a name calls or builds on, with import aliases resolved: "torch.nn.functional.dropout"."""
        aliases: dict[str, str] = {}
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Import):
                aliases |= {
                    alias.asname or alias.name.split(".")[0]: alias.name if alias.asname else alias.name.split(".")[0]
                    for alias in node.names
                }
            elif isinstance(node, ast.ImportFrom) and node.module:
                aliases |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
        definitions = [node for node in self.tree.body if getattr(node, "name", "") == name]
        found = set()
        for node in (inner for definition in definitions for inner in ast.walk(definition)):
            used = [node.func] if isinstance(node, ast.Call) else node.bases if isinstance(node, ast.ClassDef) else []
            for expression in used:
                with contextlib.suppress(RecursionError):  # an expression that deep is no call of a layer
                    head, *rest = ast.unparse(expression).split(".")
                    found.add(".".join([aliases.get(head, head), *rest]))
        return frozenset(found)

    def explain_missing(self, name: str, names: frozenset[str]) -> str:
        """One sentence on a name that the student's module does not define, with the likeliest definition it does have."""
        defined = {
            node.name: node.lineno
            for node in self.tree.body
            if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        }
        lowered = {other.lower().replace("_", ""): other for other in defined if other in names}
        close = difflib.get_close_matches(name.lower().replace("_", ""), lowered, n=1, cutoff=0.8)
        file = self.place(self._submission.main, 1).split(",")[0]
        if close:
            other = lowered[close[0]]
            place = self.place(self._submission.main, defined[other])
            return f"{file} does not define `{name}`; {place} defines `{other}`: is that it under another name?"
        last = len(self._submission.source().splitlines())
        return f"{file} does not define `{name}` (looked through its {last} lines); define it at the top level of the file."
