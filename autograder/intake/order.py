"""Notebooks, third step: the kept statements in an order in which they run, whatever the order of the cells."""

import ast
import heapq
import itertools
from bisect import bisect_left
from collections.abc import Sequence

import msgspec

from autograder.intake.names import anywhere, bound, called, needed

__all__ = ["ordered"]

_MOST_FOLLOWED = 200  # names looked at behind the calls of one statement


class _Statement(msgspec.Struct):
    binds: set[str]
    needs: set[str]


class _Binders(msgspec.Struct):
    """Who binds a name: the places of its statements, in cell order."""

    at: dict[str, list[int]]
    imported: frozenset[str]

    def of(self, name: str, user: int, statements: Sequence[_Statement]) -> int | None:
        """The statement whose binding `user` sees: the last one before it, else the last of all."""
        places = self.at.get(name)
        if not places:
            return None
        before = bisect_left(places, user)
        if before:
            return places[before - 1]
        if name in statements[user].binds or name in self.imported:
            return None
        return places[-1]


def ordered(nodes: Sequence[ast.stmt], imported: frozenset[str], *, annotations: bool) -> list[int]:
    """Put statements into an order in which what each needs comes before it, changing as little as possible.

    A name defined twice means its last definition; an earlier one stays only where a statement in between needs it,
    as it would when the notebook is run from top to bottom. Statements that need each other stay in cell order.

    Args:
        nodes: Statements in cell order, without the imports that go to the front.
        imported: Names that those imports bind.
        annotations: Whether annotations are evaluated.

    Returns:
        Indices into `nodes`, superseded definitions left out.
    """
    statements = [_Statement(bound(node), needed(node, annotations=annotations)) for node in nodes]
    for node, statement in zip(nodes, statements, strict=True):
        if isinstance(node, ast.If | ast.Try):
            statement.needs |= statement.binds  # it may not bind them: what was bound before still counts
    kept = _kept(nodes, statements, imported)
    binders = _binders(statements, kept, imported)
    hard = _edges(statements, binders, kept, [statement.needs for statement in statements])
    soft = _edges(statements, binders, kept, _behind(nodes, statements, binders))
    order, smooth = _sorted(kept, [hard[index] | soft[index] for index in range(len(nodes))])
    return order if smooth else _sorted(kept, hard)[0]


def _binders(statements: Sequence[_Statement], kept: Sequence[int], imported: frozenset[str]) -> _Binders:
    at: dict[str, list[int]] = {}
    for index in kept:
        for name in statements[index].binds:
            at.setdefault(name, []).append(index)
    return _Binders(at, imported)


def _kept(nodes: Sequence[ast.stmt], statements: Sequence[_Statement], imported: frozenset[str]) -> list[int]:
    """Leave out definitions that are superseded before anything needs them."""
    binders = _binders(statements, range(len(nodes)), imported)
    wanted: set[int] = set()
    # Only later statements need a superseded definition, so that each is decided before those that it needs itself.
    for index in reversed(range(len(nodes))):
        superseded = _replaceable(nodes[index]) and all(
            binders.at[name][-1] > index for name in statements[index].binds
        )
        if superseded and index not in wanted:
            continue
        wanted.add(index)
        wanted.update(
            found for name in statements[index].needs if (found := binders.of(name, index, statements)) is not None
        )
    return sorted(wanted)


def _replaceable(node: ast.stmt) -> bool:
    """Tell whether a statement does nothing but bind names; a decorator may do more, such as patch a class."""
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return not node.decorator_list
    return isinstance(node, ast.Assign) and all(isinstance(target, ast.Name) for target in node.targets)


def _edges(
    statements: Sequence[_Statement], binders: _Binders, kept: Sequence[int], needs: Sequence[set[str]]
) -> list[set[int]]:
    """For each statement, those that must come before it."""
    before: list[set[int]] = [set() for _ in statements]
    for places in binders.at.values():
        for first, second in itertools.pairwise(places):
            before[second].add(first)
    for index in kept:
        for name in needs[index]:
            found = binders.of(name, index, statements)
            if found is not None and found != index:
                before[index].add(found)
            if found is not None and found > index:
                continue
            places = binders.at.get(name, [])
            following = bisect_left(places, index + 1)
            if following < len(places):
                before[places[following]].add(index)
    return before


def _behind(nodes: Sequence[ast.stmt], statements: Sequence[_Statement], binders: _Binders) -> list[set[str]]:
    """For each statement, names that the functions and classes it calls need in turn."""
    bodies: dict[int, set[str]] = {}
    behind: list[set[str]] = []
    for index, node in enumerate(nodes):
        found: set[str] = set()
        waiting = list(called(node))
        while waiting and len(found) < _MOST_FOLLOWED:
            place = binders.of(waiting.pop(), index, statements)
            if place is None or place == index:
                continue
            if place not in bodies:
                bodies[place] = anywhere(nodes[place])
            if len(bodies[place]) < _MOST_FOLLOWED:
                waiting += bodies[place] - found
                found |= bodies[place]
        behind.append(found - statements[index].binds)
    return behind


def _sorted(kept: Sequence[int], before: Sequence[set[int]]) -> tuple[list[int], bool]:
    """Sort topologically, lowest first; returns the order, and whether there was no cycle."""
    after: dict[int, list[int]] = {}
    missing = {index: len(before[index]) for index in kept}
    for index in kept:
        for earlier in before[index]:
            after.setdefault(earlier, []).append(index)
    ready = [index for index in kept if not missing[index]]
    stuck = [index for index in kept if missing[index]]  # in cell order, a heap already
    order: list[int] = []
    done: set[int] = set()
    smooth = True
    while ready or stuck:
        if not ready:
            index = heapq.heappop(stuck)
            if index in done:
                continue
            smooth = False
        else:
            index = heapq.heappop(ready)
            if index in done:
                continue
        done.add(index)
        order.append(index)
        for later in after.get(index, []):
            missing[later] -= 1
            if not missing[later] and later not in done:
                heapq.heappush(ready, later)
    return order, smooth
