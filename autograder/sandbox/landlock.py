"""Layer 2, one wall: Landlock, which says what files a submission may open, whatever their mode says.

The rule set is built in the zygote and enforced in the confined process. Granted are Python's library, the system's
shared libraries, what describes the processors, the policy's readable paths, and the scratch directory for writing.
Not granted: the checkout, home directories, `/tmp`, other submissions, hidden tests, and running any program.
Where the kernel knows them, TCP is refused (ABI 4), and signals and abstract sockets to the outside (ABI 6).

What is left: Landlock does not judge looking at a name (`stat`, `readlink`), changing the mode, times or owner of a
file, or watching it; `seccomp` refuses or disarms those calls. The grant of `/proc/self` is the template's: a child
that it forks has a `/proc/self` of its own and cannot read it. A grader that is *installed* in `site-packages` rather
than run from a checkout is readable there; hidden suites must not be installed as packages.
"""

import functools
from pathlib import Path

from autograder.errors import MachineError
from autograder.sandbox import reach
from autograder.sandbox.policy import Policy

try:
    from landlockpy import AccessFS, LandlockError, RestrictFlag, Ruleset, Scope, abi_version
except ImportError:  # not Linux
    _IMPORTED = False
else:
    _IMPORTED = True

__all__ = ["abi", "build", "enforce", "scopes_signals"]

_READABLE = (
    "/usr/lib", "/usr/lib64", "/lib", "/lib64", "/usr/local/lib", "/usr/local/lib64", "/usr/local/cuda",
    "/usr/local/nvidia", "/etc/ld.so.cache", "/etc/localtime", "/etc/timezone", "/usr/share/zoneinfo",
    "/usr/share/fonts", "/etc/fonts", "/etc/ssl/openssl.cnf", "/etc/ssl/certs",
    "/proc/cpuinfo", "/proc/meminfo", "/proc/stat", "/proc/loadavg", "/proc/version",
    "/proc/sys/vm/overcommit_memory", "/proc/sys/kernel/osrelease", "/proc/driver/nvidia",
    "/sys/devices/system/cpu", "/sys/devices/system/node", "/sys/fs/cgroup", "/sys/kernel/mm/transparent_hugepage",
    "/dev/zero",  # not writable: a shared mapping of it would be memory that no limit counts
    "/dev/urandom", "/dev/random",
)  # fmt: skip
# The driver of a GPU looks its devices up on the bus, and only then.
_READABLE_WITH_GPU = ("/proc/devices", "/proc/modules", "/proc/sys/vm", "/sys/bus/pci", "/sys/devices", "/sys/module")
_DEVICES = ("null", "nvidia*", "nvidia-caps/*")  # in /dev


@functools.cache
def abi() -> int:
    """Version of Landlock that this kernel offers; 0 where there is none, as in many containers."""
    try:
        return abi_version() if _IMPORTED else 0
    except OSError:  # a container's filter may refuse the call with any error
        return 0


def scopes_signals() -> bool:
    """Whether Landlock here also keeps signals from leaving (ABI 6)."""
    return abi() >= 6


def build(policy: Policy) -> "Ruleset":
    """Build the rule set in the zygote; it belongs to one confined process.

    Args:
        policy: whose `scratch` and `readable` are granted.

    Returns:
        The open rule set, to be closed by the caller.

    Raises:
        MachineError: the scratch directory or a readable path is not there, or the kernel refused a rule.
    """
    read = AccessFS.READ_FILE | AccessFS.READ_DIR
    write = read | AccessFS.WRITE_FILE | AccessFS.TRUNCATE | AccessFS.MAKE_REG | AccessFS.MAKE_DIR | AccessFS.MAKE_SYM
    write |= AccessFS.MAKE_FIFO | AccessFS.REMOVE_FILE | AccessFS.REMOVE_DIR | AccessFS.REFER
    device = AccessFS.READ_FILE | AccessFS.WRITE_FILE | AccessFS.IOCTL_DEV
    devices = [str(path) for pattern in _DEVICES for path in sorted(Path("/dev").glob(pattern))]
    optional = [*_READABLE, *reach.roots(), *(_READABLE_WITH_GPU if len(devices) > 1 else ())]
    ruleset = Ruleset(scoped=Scope.ABSTRACT_UNIX_SOCKET | Scope.SIGNAL)
    try:
        for path in optional:
            _grant(ruleset, path, read, required=False)
        for path in devices:
            _grant(ruleset, path, device, required=False)
        for path in policy.readable:
            _grant(ruleset, path, read, required=True)
        _grant(ruleset, policy.scratch, write, required=True)
    except BaseException:
        ruleset.close()
        raise
    return ruleset


def _grant(ruleset: "Ruleset", path: str, access: "AccessFS", *, required: bool) -> None:
    of_a_file = AccessFS.READ_FILE | AccessFS.WRITE_FILE | AccessFS.TRUNCATE | AccessFS.IOCTL_DEV
    try:
        ruleset.allow_path(path, access if Path(path).is_dir() else access & of_a_file)
    except OSError as error:
        if required:
            raise MachineError(f"Landlock cannot grant {path!r} ({error.strerror}); check that it exists.") from error


def enforce(ruleset: "Ruleset") -> str:
    """Enforce `ruleset` on the calling process, which must have one thread, and on all that it forks.

    Returns:
        What stands now, such as "ABI 7".

    Raises:
        MachineError: the kernel refused.
    """
    try:
        # Only the process itself can name its own directory in /proc.
        _grant(ruleset, "/proc/self", AccessFS.READ_FILE | AccessFS.READ_DIR, required=False)
        ruleset.restrict(RestrictFlag.LOG_SAME_EXEC_OFF)
        ruleset.close()
    except LandlockError as error:
        raise MachineError(f"Landlock refused its rules ({error.strerror}); run `autograder doctor`.") from error
    return f"ABI {abi()}" if scopes_signals() else f"ABI {abi()}, which lets signals out"
