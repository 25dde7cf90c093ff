"""Layer 2, the nouns: what the confined side may use and which walls stand around it."""

import msgspec

__all__ = ["LAYERS", "Limits", "Policy"]

LAYERS = ("descriptors", "rlimits", "uid", "landlock", "seccomp")
"""Every wall, in the order of building. A grader builds all; a selftest takes one down to show what it stops."""


class Limits(msgspec.Struct, frozen=True):
    """How much one submission may use; all but `processes` count per process, so the launcher watches sums as well.

    Attributes:
        cpu_seconds: processor time of one process.
        memory_mb: private memory, in MiB, on top of what the zygote holds when it forks.
        processes: processes and threads at one time, over the whole submission.
        file_mb: size, in MiB, of one written file. How many files there are is not limited.
        open_files: descriptors open at one time in one process.
    """

    cpu_seconds: int = 60
    memory_mb: int = 384
    processes: int = 32
    file_mb: int = 64
    open_files: int = 256


class Policy(msgspec.Struct, frozen=True):
    """What one submission may do.

    Attributes:
        scratch: absolute path of its own directory, the only one it may write to.
        readable: absolute paths it may read besides Python and the system libraries, such as the submission's folder.
        uid: a user id (and group id) used by nothing else, from `kill.new_uid`; None where the grader is not root.
        limits: how much it may use.
        layers: which walls to build, names out of `LAYERS`.

    Raises:
        ValueError: a layer has an unknown name, the uid is root's, or a path is not absolute.
    """

    scratch: str
    readable: tuple[str, ...] = ()
    uid: int | None = None
    limits: Limits = Limits()
    layers: tuple[str, ...] = LAYERS

    def __post_init__(self) -> None:
        """Refuse a policy that says something else than its author meant."""
        if unknown := sorted(set(self.layers) - set(LAYERS)):
            raise ValueError(f"There is no layer {unknown[0]!r}; the layers are {', '.join(LAYERS)}.")
        if self.uid is not None and self.uid <= 0:
            raise ValueError(f"uid {self.uid} cannot confine anything; take one from kill.new_uid().")
        for path in (self.scratch, *self.readable):
            if not path.startswith("/"):
                raise ValueError(f"The path {path!r} of a policy must be absolute.")
