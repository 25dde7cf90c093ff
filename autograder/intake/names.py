"""Notebooks: which names a top-level statement binds, and which it needs, when it is run or later."""

import ast
from collections.abc import Iterator

__all__ = ["anywhere", "bound", "called", "depth", "needed"]

_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
_LOOPS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)


def depth(node: ast.AST) -> int:
    """How many nodes lie inside each other, definitions not entered."""
    deepest = 0
    stack: list[tuple[ast.AST, int]] = [(node, 1)]
    while stack:
        part, level = stack.pop()
        deepest = max(deepest, level)
        if not isinstance(part, (*_FUNCTIONS, ast.ClassDef)):
            stack.extend((child, level + 1) for child in ast.iter_child_nodes(part))
    return deepest


def bound(node: ast.AST) -> set[str]:
    """Names that a statement binds at the top level, in any of its branches."""
    return {name for part, inner in _at_once(node, annotations=True) if not inner for name in _binds(part)}


def needed(node: ast.AST, *, annotations: bool) -> set[str]:
    """Names that must exist when a statement is run: bases, decorators, defaults, a class's body, right-hand sides.

    Args:
        node: A statement.
        annotations: Whether annotations are evaluated, as they are without `from __future__ import annotations`.
    """
    loads: set[str] = set()
    inside: set[str] = set()
    for part, inner in _at_once(node, annotations=annotations):
        if isinstance(part, ast.Name) and isinstance(part.ctx, ast.Load):
            loads.add(part.id)
        elif isinstance(part, ast.AugAssign) and isinstance(part.target, ast.Name):
            loads.add(part.target.id)
        if inner:
            inside.update(_binds(part))
    return loads - inside


def called(node: ast.AST) -> set[str]:
    """Names of what is called when a statement is run, decorators included."""
    found = [part.func for part, _ in _at_once(node, annotations=False) if isinstance(part, ast.Call)]
    for part, _ in _at_once(node, annotations=False):
        found += getattr(part, "decorator_list", [])
    return {part.id for part in found if isinstance(part, ast.Name)}


def anywhere(node: ast.AST) -> set[str]:
    """Names from outside that a statement needs at once or later, when its functions are called."""
    loads: set[str] = set()
    own: set[str] = set()
    for part in ast.walk(node):
        if isinstance(part, ast.Name) and isinstance(part.ctx, ast.Load):
            loads.add(part.id)
        elif isinstance(part, ast.arg):
            own.add(part.arg)
        own.update(_binds(part))
    return loads - own


def _binds(part: ast.AST) -> Iterator[str]:
    if isinstance(part, (*_FUNCTIONS, ast.ClassDef)):
        yield part.name
    elif isinstance(part, ast.Name) and isinstance(part.ctx, ast.Store):
        yield part.id
    elif isinstance(part, ast.Import | ast.ImportFrom):
        for alias in part.names:
            yield alias.asname or alias.name.split(".")[0]


def _at_once(node: ast.AST, *, annotations: bool) -> Iterator[tuple[ast.AST, bool]]:
    """Yield the nodes evaluated when a statement is run, each with whether its bindings are local (a class, a loop)."""
    stack: list[tuple[ast.AST, bool]] = [(node, False)]
    while stack:
        part, inner = stack.pop()
        yield part, inner
        if isinstance(part, _FUNCTIONS):
            stack.extend((child, inner) for child in part.decorator_list)
            stack.extend((child, inner) for child in _signature(part.args, annotations=annotations))
            if annotations and part.returns:
                stack.append((part.returns, inner))
        elif isinstance(part, ast.Lambda):
            stack.extend((child, inner) for child in _signature(part.args, annotations=False))
        elif isinstance(part, ast.ClassDef):
            stack.extend((child, inner) for child in (*part.bases, *part.keywords, *part.decorator_list))
            stack.extend((child, True) for child in part.body)
        elif isinstance(part, ast.AnnAssign) and not annotations:
            stack.extend((child, inner) for child in (part.target, part.value) if child)
        else:
            local = inner or isinstance(part, _LOOPS)
            stack.extend((child, local) for child in ast.iter_child_nodes(part))


def _signature(arguments: ast.arguments, *, annotations: bool) -> Iterator[ast.AST]:
    yield from arguments.defaults
    yield from (default for default in arguments.kw_defaults if default)
    if annotations:
        every = (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs, arguments.vararg, arguments.kwarg)
        yield from (argument.annotation for argument in every if argument and argument.annotation)
