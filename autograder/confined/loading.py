"""Layer 1, confined: import the student's files as Python would; a missing package fails only what uses it."""

import __future__

import ast
import importlib.abc
import importlib.machinery
import importlib.util
import os
import sys
import traceback
import types
from collections.abc import Iterator, Sequence
from typing import Any, NoReturn

from autograder.confined import wire

__all__ = ["Loader", "Missing", "describe", "load"]

_MAX_MESSAGE = 2000
_MAX_LINES = 6
_FUTURES = {name: getattr(__future__, name).compiler_flag for name in __future__.all_feature_names}


class Missing:
    """Stands for a module, or a name from one, that is not installed here. Any real use raises ModuleNotFoundError."""

    def __init__(self, name: str) -> None:
        self.__dict__["_missing_name"] = name

    def _refuse(self) -> NoReturn:
        name: str = self.__dict__["_missing_name"]
        top = name.split(".", maxsplit=1)[0]
        raise ModuleNotFoundError(f"`{name}` is used here, but `{top}` is not installed in the grader", name=top)

    def __getattr__(self, name: str) -> "Missing":
        if name.startswith("__"):
            raise AttributeError(name)
        return Missing(f"{self.__dict__['_missing_name']}.{name}")

    def __setattr__(self, name: str, value: object) -> None:
        # `plt.rcParams = …` and its like configure something that is not there: nothing to do
        return

    def __call__(self, *_args: object, **_kwargs: object) -> NoReturn:
        """Refuse."""
        self._refuse()

    def __instancecheck__(self, _thing: object) -> NoReturn:
        self._refuse()

    def __mro_entries__(self, _bases: tuple[type, ...]) -> NoReturn:
        self._refuse()

    def __iter__(self) -> Iterator[Any]:
        self._refuse()

    def __getitem__(self, _key: object) -> "Missing":
        # `npt.NDArray[float]` and `pd.DataFrame | None` stand in annotations, which ask for nothing
        return Missing(f"{self.__dict__['_missing_name']}[]")

    def __or__(self, _other: object) -> "Missing":
        return self

    __ror__ = __or__

    def __setitem__(self, _key: object, _value: object) -> None:
        return

    def __enter__(self) -> NoReturn:
        self._refuse()

    def __exit__(self, *_args: object) -> None:
        return


class Loader(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds and runs the modules in one folder: the student's.

    Attributes:
        missing: Names of modules that top-level imports asked for and this machine lacks.
        raised: What top-level statements raised, where the main module is loaded tolerantly.
    """

    def __init__(self, folder: str, main: str, *, tolerant: bool) -> None:
        self._folder = folder
        self._main = main
        self._tolerant = tolerant
        self.missing: list[str] = []
        self.raised: list[wire.Raised] = []

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, _target: types.ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """Find a student's module or package; anything else is left to Python."""
        inside = self._folder + os.sep
        folders = [self._folder] if path is None else [entry for entry in path if entry.startswith(inside)]
        spec = importlib.machinery.PathFinder.find_spec(fullname, folders) if folders else None
        if spec is None or not isinstance(spec.loader, importlib.machinery.SourceFileLoader):
            return spec if spec is not None and spec.origin is None else None
        package = spec.submodule_search_locations
        return importlib.util.spec_from_file_location(
            fullname, spec.origin, loader=self, submodule_search_locations=package
        )

    def exec_module(self, module: types.ModuleType) -> None:
        """Run a module's top-level statements; a top-level import of what this machine lacks leaves a `Missing`."""
        path = module.__spec__.origin if module.__spec__ else None
        if path is None:
            raise ImportError(f"{module.__name__} has no source file", name=module.__name__)
        with open(path, "rb") as file:  # noqa: PTH123  # pathlib is not needed on this side
            tree = ast.parse(file.read(), path)
        tolerant = self._tolerant and module.__name__ == self._main
        flags = _future_flags(tree)
        for statements in _segments(tree.body, one_by_one=tolerant):
            code = compile(ast.Module(statements, []), path, "exec", flags=flags, dont_inherit=True)
            try:
                exec(code, module.__dict__)  # noqa: S102  # this is what the confined side is for
            except ModuleNotFoundError as error:
                if not self._stand_in(statements[0], error, module.__dict__):
                    self._raise_or_record(error, tolerant=tolerant)
            except Exception as error:  # noqa: BLE001  # student code raises anything
                self._raise_or_record(error, tolerant=tolerant)

    def _raise_or_record(self, error: Exception, *, tolerant: bool) -> None:
        if not tolerant:
            raise error
        self.raised.append(describe(error, self._folder))

    def _stand_in(self, statement: ast.stmt, error: ModuleNotFoundError, names: dict[str, Any]) -> bool:
        """Bind `Missing`s for an import statement whose module is not installed; False if that is not what happened."""
        if isinstance(statement, ast.Import):
            if not any(_is_absent(alias.name, error) for alias in statement.names):
                return False
            for alias in statement.names:
                one = ast.fix_missing_locations(ast.Module([ast.Import([alias])], []))
                try:
                    exec(compile(one, "<import>", "exec"), names)  # noqa: S102  # likewise
                except ModuleNotFoundError as again:
                    if not _is_absent(alias.name, again):
                        raise
                    self._note(alias.name)
                    bound = alias.name if alias.asname else alias.name.split(".")[0]
                    # `import torch.nothing` must not take away torch
                    names[alias.asname or bound] = sys.modules.get(bound) or Missing(bound)
            return True
        if isinstance(statement, ast.ImportFrom) and not statement.level and statement.module:
            if not _is_absent(statement.module, error):
                return False
            self._note(statement.module)
            for alias in statement.names:
                if alias.name != "*":
                    names[alias.asname or alias.name] = Missing(f"{statement.module}.{alias.name}")
            return True
        return False

    def _note(self, name: str) -> None:
        if name not in self.missing:
            self.missing.append(name)


def _is_absent(module: str, error: ModuleNotFoundError) -> bool:
    """Whether the error is that this module, or a package it lies in, is not there; not one that it imports in turn."""
    return bool(error.name) and f"{module}.".startswith(f"{error.name}.")


def _future_flags(tree: ast.Module) -> int:
    flags = 0
    for statement in tree.body:
        if isinstance(statement, ast.ImportFrom) and statement.module == "__future__":
            for alias in statement.names:
                flags |= _FUTURES.get(alias.name, 0)
    return flags


def _segments(body: list[ast.stmt], *, one_by_one: bool) -> Iterator[list[ast.stmt]]:
    """Runs of statements to execute together: each import alone, so that one that fails can be told apart."""
    run: list[ast.stmt] = []
    for index, statement in enumerate(body):
        if index and _is_text(statement):
            continue  # first in a run, it would become the module's docstring
        if one_by_one or isinstance(statement, ast.Import | ast.ImportFrom):
            if run:
                yield run
            yield [statement]
            run = []
        else:
            run.append(statement)
    if run:
        yield run


def _is_text(statement: ast.stmt) -> bool:
    return (
        isinstance(statement, ast.Expr)
        and isinstance(statement.value, ast.Constant)
        and isinstance(statement.value.value, str)
    )


def _message_of(error: BaseException) -> str:
    try:
        text = str(error)
    except BaseException as problem:  # noqa: BLE001  # an exception's own __str__ is student code
        text = f"(its message could not be read: {type(problem).__name__})"
    return _plain(text)


def _plain(text: str, limit: int = _MAX_MESSAGE) -> str:
    return str.encode(text[:limit], "utf-8", "replace").decode()


def describe(error: BaseException, folder: str) -> wire.Raised:
    """An exception as data, with the frames that lie in the student's folder and no others."""
    try:
        return _describe(error, folder)
    except Exception as problem:  # noqa: BLE001  # its class is student code: attributes may be of any type, or raise
        return wire.Raised("Exception", f"(it could not be read: {type(problem).__name__})", [])


def _describe(error: BaseException, folder: str) -> wire.Raised:
    frames: list[tuple[str, int, str]] = []
    prefix = folder + os.sep
    for frame, line in traceback.walk_tb(error.__traceback__):
        path = frame.f_code.co_filename
        if path.startswith(prefix):
            frames.append((_plain(path[len(prefix) :]), line, _plain(frame.f_code.co_name)))
    if isinstance(error, SyntaxError) and (error.filename or "").startswith(prefix):
        frames.append((_plain((error.filename or "")[len(prefix) :]), int(error.lineno or 0), "<module>"))
    if len(frames) > _MAX_LINES:
        frames = frames[:2] + frames[2 - _MAX_LINES :]
    missing = error.name or "" if isinstance(error, ModuleNotFoundError) else ""
    return wire.Raised(_plain(type(error).__name__, 200), _message_of(error), frames, _plain(missing, 200))


def load(folder: str, main: str, *, tolerant: bool) -> tuple[types.ModuleType, Loader]:
    """Import the main module afresh.

    Raises:
        BaseException: Whatever student code raises.
    """
    for name in [name for name, module in sys.modules.items() if _lies_in(module, folder)]:
        del sys.modules[name]
    sys.meta_path[:] = [finder for finder in sys.meta_path if not isinstance(finder, Loader)]
    loader = Loader(folder, main, tolerant=tolerant)
    # First, as Python itself puts a script's own folder first. What is imported already cannot be shadowed.
    sys.meta_path.insert(0, loader)
    return importlib.import_module(main), loader


def _lies_in(module: object, folder: str) -> bool:
    # vars, as some modules make up any attribute that they are asked for
    names = vars(module) if isinstance(module, types.ModuleType) else {}
    # a folder without `__init__.py` has no file, but it holds on to the modules inside it
    paths = [names.get("__file__"), *(names.get("__path__") or ())]
    return any(isinstance(path, str) and path.startswith(folder + os.sep) for path in paths)
