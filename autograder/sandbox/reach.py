"""Layer 2: keep Python importable for a user that cannot walk to it.

After the change of user, the interpreter's library may lie behind a directory that only its owner may pass, such as
`/root` with mode 0700. Everything imported before goes on working, but each later import fails, and PyTorch imports
many of its modules on first use. So the zygote opens an `O_PATH` handle of each such library while it still may, and
rewrites the import paths to `/proc/self/fd/<handle>/...`: resolving that link needs no right on
the directories above.

Rejected: importing everything beforehand (no list is complete), copying the libraries (gigabytes), a bind mount (needs
a right that containers do not have), `chmod o+x` of a home directory (not ours to change).

What it opens: `..` of a handle leads upwards until a directory that others may not pass. Below that directory, files
that anyone may read are in reach of a submission **where Landlock does not stand** (under Landlock they are not:
`/proc/self/fd` changes the route, not the rights). `exposed` names these directories; nothing secret may lie below.
The handles are opened on library directories alone, never on a checkout that happens to be on `sys.path`.
"""

import os
import site
import stat
import sys
import sysconfig
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["Handle", "exposed", "open_handles", "roots", "unreachable", "use_handles"]


@dataclass(frozen=True)
class Handle:
    """An open directory that the confined user cannot walk to.

    Attributes:
        path: the directory, as it stands in `sys.path`.
        fd: its `O_PATH` descriptor.
    """

    path: str
    fd: int

    def rewritten(self, path: str) -> str | None:
        """`path` as seen through the handle, or None when it does not lie below it."""
        if not _lies_in(path, self.path):
            return None
        return f"/proc/self/fd/{self.fd}{path[len(self.path) :]}"


def roots() -> tuple[str, ...]:
    """Directories that hold Python's library and installed packages, and nothing else.

    An editable install puts the grader's checkout on `sys.path`; it is not among them, even where the environment lies
    inside the checkout or is the checkout.
    """
    prefixes = {sys.prefix, sys.base_prefix, sys.exec_prefix, sys.base_exec_prefix}
    found = {f"{prefix}/{name}" for prefix in prefixes for name in ("lib", "lib64", "share")}
    found |= {sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")}
    found |= set(site.getsitepackages())
    if site.ENABLE_USER_SITE:
        found.add(site.getusersitepackages())
    kept: list[str] = []
    # Path.is_dir() raises for a directory behind a closed one, before Python 3.14.
    for path in sorted(os.path.normpath(path) for path in found if os.path.isdir(path)):  # noqa: PTH112
        # Nested by name and in truth: a link inside one root may lead to another place.
        if not any(_lies_in(path, above) and _lies_in(*map(os.path.realpath, (path, above))) for above in kept):
            kept.append(path)
    return tuple(kept)


def _lies_in(path: str, above: str) -> bool:
    return path == above or path.startswith(above + "/")


def unreachable(path: str) -> bool:
    """Whether a user that owns nothing cannot walk to `path`: some directory above it lacks the others' search bit."""
    ways = (Path(os.path.normpath(path)), Path(os.path.realpath(path)))
    return not all(_passable(above) for way in ways for above in way.parents)


def _passable(directory: Path) -> bool:
    try:
        return bool(directory.stat().st_mode & stat.S_IXOTH)
    except OSError:
        return False


def open_handles() -> tuple[Handle, ...]:
    """Open, in the zygote, each of `roots` that another user cannot walk to.

    Returns:
        The handles; empty where Python is installed for everybody. The caller closes the descriptors.

    Raises:
        OSError: a directory cannot be opened.
    """
    handles: list[Handle] = []
    try:
        for path in filter(unreachable, roots()):
            handles.append(Handle(path, os.open(path, os.O_PATH | os.O_CLOEXEC)))  # noqa: PERF401  # closed below if one fails
    except OSError:
        for handle in handles:
            os.close(handle.fd)
        raise
    return tuple(handles)


def exposed(handles: tuple[Handle, ...]) -> tuple[str, ...]:
    """The highest directories that `..` reaches: without Landlock, what all may read below them is in reach."""
    tops = set()
    for handle in handles:
        top = Path(os.path.realpath(handle.path))
        while top != top.parent and _passable(top.parent):
            top = top.parent
        tops.add(str(top))
    return tuple(sorted(tops))


def use_handles(handles: tuple[Handle, ...]) -> None:
    """Rewrite, in the calling process, every path that imports and packages' own data are found by.

    The zygote does it once, since the rewritten paths serve it as well and are inherited; or each confined process does
    it for itself, at 10 ms per 1000 modules. Rewritten are `sys.path` and of each loaded module its `__path__`,
    `__file__`, its spec's origin and its loader's path.
    """
    if not handles:
        return

    prefixes = tuple(handle.path for handle in handles)

    def through(path: str) -> str:
        for handle in handles if path.startswith(prefixes) else ():
            if (new := handle.rewritten(path)) is not None:
                return new
        return path

    sys.path[:] = [through(path) for path in sys.path]
    for module in list(sys.modules.values()):
        names = getattr(module, "__dict__", None)
        if isinstance(names, dict):
            _rewrite_module(names, through)


def _rewrite_module(names: dict[str, Any], through: Callable[[str], str]) -> None:
    """Rewrite the paths in one module's namespace, in place: specs and packages share their lists."""
    spec, loader = names.get("__spec__"), names.get("__loader__")
    for paths in (names.get("__path__"), getattr(spec, "submodule_search_locations", None)):
        if isinstance(paths, list):
            paths[:] = [through(path) if isinstance(path, str) else path for path in paths]
    if isinstance(file := names.get("__file__"), str):
        names["__file__"] = through(file)
    for holder, attribute in ((spec, "origin"), (loader, "path")):
        old = getattr(holder, attribute, None)
        if isinstance(old, str) and through(old) != old:
            try:
                setattr(holder, attribute, through(old))
            except AttributeError:  # a loader written in C; imports do not need it
                continue
