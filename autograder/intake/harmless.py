"""Notebooks, second step: which top-level statements are kept. What could do work (train, plot, download) is not."""

import ast
import re
from collections.abc import Iterable

import msgspec

__all__ = ["Keeper", "leaves"]

_BUILTINS = re.compile(
    "abs|bool|bytes|chr|complex|dict|divmod|enumerate|float|frozenset|getattr|hasattr|int|isinstance|issubclass|len|list|"
    "max|min|object|ord|property|range|reversed|round|set|slice|sorted|staticmethod|classmethod|str|sum|tuple|type|zip"
)
# Full names, as the imports resolve them. Nearly all build a small object from what they are given.
_CALLS = re.compile(
    r"""torch\.(device|manual_seed|Generator|tensor|as_tensor|zeros|ones|full|eye|arange|linspace|Size|finfo|iinfo)
    | torch\.(cuda|mps|xpu|accelerator|backends\.mps|backends\.cuda)\.
      (is_available|is_built|device_count|current_device|current_accelerator|get_device_name)
    | torch\.nn\.(modules\.\w+\.)?[A-Z]\w*
    | torchvision\.transforms\.(v2\.)?[A-Z]\w*
    | collections\.(namedtuple|OrderedDict|defaultdict|Counter|deque)
    | (typing|typing_extensions)\.(NamedTuple|TypedDict|TypeVar|TypeVarTuple|ParamSpec|NewType)
    | enum\.(Enum|IntEnum|StrEnum|Flag|IntFlag|auto)
    | dataclasses\.(field|make_dataclass|dataclass)
    | functools\.(partial|partialmethod) | types\.(SimpleNamespace|MappingProxyType)
    | pathlib\.(Path|PurePath|PurePosixPath) | re\.compile | math\.\w+ | logging\.getLogger
    | os\.(getenv|cpu_count) | os\.environ\.get | os\.path\.\w+
    | numpy\.(array|asarray|zeros|ones|full|eye|arange|linspace|sqrt|prod|float32|float64|int32|int64)
    """,
    re.VERBOSE,
)
_WORK = (ast.NamedExpr, ast.Await, ast.Yield, ast.YieldFrom)


class Keeper(msgspec.Struct):
    """Decides statement by statement, knowing all imports and definitions of the notebook.

    Attributes:
        dropped: Statements decided against so far, those inside blocks included.
    """

    imported: dict[str, str]
    defined: frozenset[str]
    dropped: list[ast.stmt]

    @classmethod
    def of(cls, statements: Iterable[ast.stmt]) -> "Keeper":
        """Look through all top-level statements for what names mean."""
        imported: dict[str, str] = {}
        defined: set[str] = set()
        for node in leaves(statements):
            if isinstance(node, ast.Import):
                for alias in node.names:
                    root = alias.name.split(".")[0]
                    imported[alias.asname or root] = alias.name if alias.asname else root
            elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
                imported.update({alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names})
            elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                defined.add(node.name)
        return cls(imported, frozenset(defined), [])

    def keep(self, node: ast.stmt) -> ast.stmt | None:
        """Return the statement itself, a part of it where it is a block, or None."""
        if isinstance(node, ast.If):
            return self._if(node)
        if _is_try(node):
            return self._try(node)  # type: ignore[arg-type]  # TryStar has Try's fields
        if self._simple(node):
            return node
        self.dropped.append(node)
        return None

    def _simple(self, node: ast.stmt) -> bool:
        if isinstance(node, ast.Assign):
            return all(map(self._target, node.targets)) and self.harmless(node.value)
        if isinstance(node, ast.AnnAssign):
            return self._target(node.target) and self.harmless(node.annotation) and self.harmless(node.value)
        if isinstance(node, ast.AugAssign):
            return self._target(node.target) and self.harmless(node.value)
        kept = (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
        return isinstance(node, kept) or type(node).__name__ == "TypeAlias"

    def _target(self, node: ast.expr) -> bool:
        if isinstance(node, ast.Tuple | ast.List):
            return all(map(self._target, node.elts))
        if isinstance(node, ast.Starred):
            return self._target(node.value)
        return isinstance(node, ast.Name | ast.Attribute | ast.Subscript) and self.harmless(node)

    def harmless(self, node: ast.AST | None) -> bool:
        """Tell whether evaluating an expression can do no more than build a small value."""
        if node is None or isinstance(node, _WORK):
            return node is None
        if isinstance(node, ast.Lambda):
            return all(map(self.harmless, (*node.args.defaults, *node.args.kw_defaults)))
        if isinstance(node, ast.Call) and not self._harmless_call(node.func):
            return False
        parts = (ast.expr, ast.comprehension, ast.keyword)
        return all(self.harmless(child) for child in ast.iter_child_nodes(node) if isinstance(child, parts))

    def _harmless_call(self, function: ast.expr) -> bool:
        parts: list[str] = []
        while isinstance(function, ast.Attribute):
            parts.append(function.attr)
            function = function.value
        if isinstance(function, ast.Constant):
            return isinstance(function.value, str) and len(parts) == 1  # "a b c".split()
        if not isinstance(function, ast.Name) or function.id in self.defined:
            return False
        if function.id in self.imported:
            return bool(_CALLS.fullmatch(".".join((self.imported[function.id], *reversed(parts)))))
        return not parts and bool(_BUILTINS.fullmatch(function.id))

    def _if(self, node: ast.If) -> ast.stmt | None:
        main_guard = any(isinstance(part, ast.Name) and part.id == "__name__" for part in ast.walk(node.test))
        if main_guard or not self.harmless(node.test):
            self.dropped.extend(leaves([node]))
            return None
        body, orelse = self._block(node.body), self._block(node.orelse)
        if not body and not orelse:
            return None
        if body == node.body and orelse == node.orelse:
            return node
        return ast.copy_location(ast.If(node.test, body or [ast.Pass()], orelse), node)

    def _try(self, node: ast.Try) -> ast.stmt | None:
        body, orelse, final = self._block(node.body), self._block(node.orelse), self._block(node.finalbody)
        handlers = list(map(self._handler, node.handlers))
        if not (body or orelse or final):
            return None
        if (body, handlers, orelse, final) == (node.body, node.handlers, node.orelse, node.finalbody):
            return node
        return ast.copy_location(type(node)(body or [ast.Pass()], handlers, orelse, final), node)

    def _handler(self, node: ast.ExceptHandler) -> ast.ExceptHandler:
        body, kind = self._block(node.body), node.type if self.harmless(node.type) else None
        if body == node.body and kind is node.type:
            return node
        return ast.copy_location(ast.ExceptHandler(kind, node.name, body or [ast.Pass()]), node)

    def _block(self, body: list[ast.stmt]) -> list[ast.stmt]:
        if all(isinstance(node, ast.Pass) for node in body):
            return body
        kept = (node if isinstance(node, ast.Pass) else self.keep(node) for node in body)
        found = [node for node in kept if node is not None]
        return [] if all(isinstance(node, ast.Pass) for node in found) else found


def leaves(statements: Iterable[ast.stmt]) -> Iterable[ast.stmt]:
    """Yield statements with `if` and `try` opened up, in order."""
    for node in statements:
        if isinstance(node, ast.If):
            yield from leaves(node.body)
            yield from leaves(node.orelse)
        elif _is_try(node):
            yield from leaves(node.body)  # type: ignore[attr-defined]  # TryStar has Try's fields
            for handler in node.handlers:  # type: ignore[attr-defined]
                yield from leaves(handler.body)
            yield from leaves(node.orelse)  # type: ignore[attr-defined]
            yield from leaves(node.finalbody)  # type: ignore[attr-defined]
        else:
            yield node


def _is_try(node: ast.stmt) -> bool:
    return type(node).__name__ in ("Try", "TryStar")  # TryStar came with Python 3.11
