"""Makes the command that runs an interpreter behind bubblewrap: what it can see, and nothing else.

Owns the walls of a sandbox: its files, namespaces, user and environment. `seccomp.py` has the system calls,
`interpreter.py` the limits that a process sets itself, `session.py` those that need watching. Starts nothing,
but for asking a Python where its files are.
"""

import json
import os
import secrets
import shutil
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

PROGRAM = "bwrap"
WORK_FOLDER = "/mnt/data"
"""Where code finds itself, and what it may keep files in: the folder that GPT-OSS was trained on."""

_SHARED_FOLDER = "/dev/shm"
FOLDERS = (WORK_FOLDER, "/tmp", _SHARED_FOLDER)
"""All that code may write to, each in memory of its own."""
_SHARED_BYTES = 2**24

_INTERPRETER = Path(__file__).with_name("interpreter.py")
_INSIDE = "/run/interpreter.py"
_LIBRARIES = ("/lib", "/lib64", "/usr/lib", "/usr/lib64", "/etc/ld.so.cache", "/usr/share/zoneinfo")
_ENVIRONMENT = {
    "PATH": "/usr/bin:/bin",
    "HOME": WORK_FOLDER,
    "TMPDIR": "/tmp",
    "LANG": "C.UTF-8",
    "PYTHONDONTWRITEBYTECODE": "1",
    # Libraries start one thread per CPU of the host, which the limit of processes counts.
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
}
"""Everything that code finds in its environment."""
_PLAIN_USER = 1000
"""The user inside, if the server's own is a plain one; outside, it is the server's."""
_USERS_OF_A_MACHINE, _USERS_OF_A_CONTAINER = (2**30, 2**29), (60_706, 477)
"""(first, number) of ids that belong to nobody: on a machine, which has all 32 bits of them, and in a
container that maps 65,536 of them, where they are those that systemd leaves unused."""
_ASKING_TIMEOUT_S = 60.0
_ASKED = "import json, sys; print(json.dumps([sys.executable, sys.prefix, sys.base_prefix, sys.version]))"


class NoSandbox(Exception):
    """Nothing can be run behind bubblewrap here; the message says what is missing."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What one session may take."""

    memory_bytes: int = 2**30
    """Of all its processes together in memory, and of each in addresses, so that one that asks for more is
    told so and lives."""
    files_bytes: int = 128 * 2**20
    """Of its work folder, in memory as well."""
    processes: int = 48
    """Threads are counted too."""
    open_files: int = 256
    last_bytes: int = 256 * 1024
    """Of a value or a traceback, which is cut."""
    cell_s: float = 60.0
    idle_s: float = 1_200.0
    """A session that has been idle for longer is ended."""


@dataclass(frozen=True, slots=True)
class Runtime:
    """A Python as it is outside, and the folders that it needs inside, at the same paths."""

    python: str
    version: str
    folders: tuple[str, ...]


def find_runtime(python: Path) -> Runtime:
    """Asks a Python where its files are. Raises NoSandbox if it is none."""
    try:
        command = (str(python), "-I", "-c", _ASKED)
        asked = subprocess.run(command, capture_output=True, check=True, timeout=_ASKING_TIMEOUT_S, cwd="/")
        executable, prefix, base, version = json.loads(asked.stdout)
    except (OSError, subprocess.SubprocessError, ValueError) as error:
        raise NoSandbox(f"{python} is no Python that could run here: {error}") from None
    folders = {os.path.realpath(base), *((prefix,) if prefix != base else ()), base}
    kept = tuple(sorted(each for each in folders if not _is_below_any(each, folders)))
    return Runtime(executable, version.split()[0], kept)


def _is_below_any(folder: str, folders: Iterable[str]) -> bool:
    return any(other != folder and Path(folder).is_relative_to(other) for other in folders)


def find_program() -> str:
    """Returns the path of bubblewrap. Raises NoSandbox."""
    program = shutil.which(PROGRAM, path=os.environ.get("PATH", os.defpath))
    if program is None:
        raise NoSandbox(
            "bubblewrap is not installed (on Debian and Ubuntu: apt install bubblewrap), "
            "and the Python tool's CPython runs behind it"
        )
    return program


def choose_user(server_user: int, uid_map: str) -> int:
    """Returns the user that code becomes: 0 if the namespace of the server's own user is enough.

    The kernel does not count the processes of root, so a server that runs as root gives each session a user
    of its own. `uid_map`: the text of /proc/self/uid_map.
    """
    if server_user != 0:
        return 0
    mapped = sum(int(line.split()[2]) for line in uid_map.splitlines())
    first, number = _USERS_OF_A_MACHINE if mapped > 2**31 else _USERS_OF_A_CONTAINER
    return first + secrets.randbelow(number)


def make_command(
    program: str, runtime: Runtime, limits: Limits, user: int, seccomp: int, answers: int, mark: str
) -> list[str]:
    """Returns the command of one interpreter.

    `seccomp`: a descriptor from which the filter is read; `answers`: one to which the interpreter writes;
    `mark`: a word by which the guard of the server finds the processes (`guard.py`).
    """
    return [
        program,
        *("--die-with-parent", "--new-session", "--unshare-pid", "--unshare-net", "--unshare-ipc"),
        *("--unshare-uts", "--unshare-cgroup-try", "--hostname", "sandbox", "--seccomp", str(seccomp)),
        *_rights(user),
        *_files(runtime, limits),
        *("--clearenv", *(word for item in _ENVIRONMENT.items() for word in ("--setenv", *item))),
        *("--chdir", WORK_FOLDER, "--"),
        *(runtime.python, "-I", "-B", "-u", _INSIDE),
        *("--answers", str(answers), "--user", str(user), "--mark", mark),
        *("--last-bytes-max", str(limits.last_bytes)),
        *("--memory-bytes", str(limits.memory_bytes), "--file-bytes", str(limits.files_bytes)),
        *("--processes", str(limits.processes), "--open-files", str(limits.open_files)),
    ]


def _rights(user: int) -> tuple[str, ...]:
    if user:
        return "--cap-drop", "ALL", "--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID"
    return "--unshare-user", "--uid", str(_PLAIN_USER), "--gid", str(_PLAIN_USER), "--cap-drop", "ALL"


def _files(runtime: Runtime, limits: Limits) -> list[str]:
    """Returns the mounts: the runtime, devices without rights, and memory to write to. There is no /proc: it
    would show the host's processes where a new one cannot be mounted, as in a container."""
    # Memory comes first, because a runtime may lie below /tmp.
    words = ["--dev", "/dev"]
    for folder in FOLDERS:
        size = _SHARED_BYTES if folder == _SHARED_FOLDER else limits.files_bytes
        words += ["--perms", "1777", "--size", str(size), "--tmpfs", folder]
    # Terminals hold memory, and the machine has a fixed number of them; pages of /dev/zero that processes
    # share stay when they are mapped nowhere, where no limit sees them.
    words += ["--perms", "0555", "--size", "4096", "--tmpfs", "/dev/pts", "--remount-ro", "/dev/pts"]
    words += ["--ro-bind", "/dev/null", "/dev/zero"]
    libraries = (path for path in _LIBRARIES if os.path.exists(path))
    bound = [*(path for path in libraries if not _is_below_any(path, runtime.folders)), *runtime.folders]
    for parent in sorted(
        {str(each) for path in (*bound, _INSIDE) for each in Path(path).parents} - {"/", "/tmp"}
    ):
        # Otherwise only the user that bubblewrap runs as could enter it.
        words += ["--perms", "0755", "--dir", parent]
    for path in bound:
        if os.path.islink(path) and path not in runtime.folders:
            words += ["--symlink", os.readlink(path), path]
        else:
            words += ["--ro-bind", path, path]
    return [*words, "--ro-bind", str(_INTERPRETER), _INSIDE, "--remount-ro", "/dev", "--remount-ro", "/"]
