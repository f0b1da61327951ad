"""CPython behind bubblewrap: what code can reach, what it can take, and how sessions live and end."""

import asyncio
import functools
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path

import pytest
import pytest_asyncio

from tests.integration.mcp_servers import ROOT
from tests.patience import PATIENCE_S, outlast, until
from tests.sandboxing import PYTHON, need_bubblewrap
from tool_runner.builtin.cells import Ran
from tool_runner.builtin.cpython import processes
from tool_runner.builtin.cpython.bubblewrap import Limits
from tool_runner.builtin.cpython.sandbox import CPythonSandbox, open_sandbox
from tool_runner.builtin.cpython.session import Interpreter, Walls

MIB = 2**20
LIMITS = Limits(memory_bytes=192 * MIB, files_bytes=4 * MIB, processes=24, cell_s=PATIENCE_S)
OUTPUT_BYTES_MAX = 20_000


@asynccontextmanager
async def opened(limits: Limits, cells: int = 4, sessions: int = 4) -> AsyncIterator[CPythonSandbox]:
    await asyncio.to_thread(need_bubblewrap)
    start = functools.partial(Interpreter.start, Walls.find(PYTHON, limits))
    async with open_sandbox(start, limits, OUTPUT_BYTES_MAX, cells, sessions) as sandbox:
        yield sandbox


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def sandbox() -> AsyncIterator[CPythonSandbox]:
    async with opened(LIMITS) as sandbox:
        yield sandbox


pytestmark = pytest.mark.asyncio(loop_scope="module")


async def show(sandbox: CPythonSandbox, *cells: str, state: str | None = None) -> Ran:
    """How the last of the cells went, run one after another in one session."""
    ran = Ran("")
    for code in cells:
        ran = await sandbox.run(code, state)
        state = ran.state or state
    return ran


def find_processes(number: float) -> list[int]:
    """The processes with this number among the words of their command, wherever they are on this machine."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().split(b"\0")
        except OSError:
            continue
        if str(number).encode() in words:
            found.append(int(path.parent.name))
    return found


def find_own_sandboxes() -> list[int]:
    """The bubblewraps of this process."""
    return [process.pid for process in processes.survey().get(os.getpid(), ())]


def has_stopped(pid: int) -> bool:
    """Returns True if every thread of the process stands still."""
    threads = Path(f"/proc/{pid}/task").glob("*/stat")
    return {path.read_text().rpartition(")")[2].split()[0] for path in threads} == {"T"}


# What a notebook is


@pytest.mark.parametrize(
    ("cells", "shown"),
    [
        (("import statistics, fractions\nstatistics.mean([1, 2])",), "1.5\n"),
        (("class A:\n    def __init__(self): self.x = 1\nclass B(A): pass", "B().x"), "1\n"),
        (("def f():\n    yield from range(3)\nlist(f())",), "[0, 1, 2]\n"),
        (("7", "_ + 1"), "8\n"),
        (("open('/mnt/data/a.txt', 'w').write('kept')", "open('a.txt').read()"), "'kept'\n"),
        (("import asyncio\nawait asyncio.sleep(0, 'awaited')",), "'awaited'\n"),
        (("if __name__ == '__main__':\n    print('main')",), "main\n"),
        (("import pickle\nclass A: pass\ntype(pickle.loads(pickle.dumps(A()))) is A",), "True\n"),
        (("import sys\nprint('to stderr', file=sys.stderr)\nprint('to stdout')",), "to stderr\nto stdout\n"),
        (("import os\nos.write(1, b'from below\\n')\nNone",), "from below\n"),
        (("print('\\udc80 cannot be encoded')",), "\\udc80 cannot be encoded\n"),
        (("import concurrent.futures as c\nlist(c.ThreadPoolExecutor(2).map(abs, [-1]))",), "[1]\n"),
        (("import multiprocessing as m\nwith m.Pool(2) as p: r = p.map(abs, [-1])\nr",), "[1]\n"),
    ],
)
async def test_a_cell_is_what_a_notebook_makes_of_it(
    sandbox: CPythonSandbox, cells: tuple[str, ...], shown: str
) -> None:
    assert (await show(sandbox, *cells)).text == shown


async def test_a_traceback_shows_the_frames_of_the_code_only(sandbox: CPythonSandbox) -> None:
    code = "import json\ndef read(text):\n    return json.loads(text)\nread('{')"
    text = (await show(sandbox, code)).text
    assert text.count("  File ") == 2
    assert 'File "<cell 1>", line 4, in <module>\n    read(' in text
    assert 'File "<cell 1>", line 3, in read\n    return json.loads(text)' in text
    assert "json.decoder.JSONDecodeError: Expecting property name" in text


async def test_a_cause_is_shown_with_its_own_frames_and_a_group_with_its_members(
    sandbox: CPythonSandbox,
) -> None:
    chained = "try:\n    int('x')\nexcept ValueError as error:\n    raise KeyError('k') from error"
    text = (await show(sandbox, chained)).text
    assert "ValueError: invalid literal" in text
    assert "The above exception was the direct cause" in text
    assert text.endswith("KeyError: 'k'\n")
    grouped = (await show(sandbox, "raise ExceptionGroup('both', [ValueError(1), KeyError(2)])")).text
    assert "ExceptionGroup: both (2 sub-exceptions)" in grouped
    assert "ValueError: 1" in grouped


@pytest.mark.parametrize(
    ("code", "shown"),
    [
        ("raise SystemExit(3)", "SystemExit: 3\n"),
        ("import sys\nsys.exit('bye')", "SystemExit: bye\n"),
        ("raise KeyboardInterrupt", "KeyboardInterrupt\n"),
        ("class E(Exception):\n    def __str__(self): raise ValueError\nraise E", "<exception str() failed>"),
        ("def f(): f()\nf()", "RecursionError: maximum recursion depth exceeded"),
        ("class A:\n    def __repr__(self): raise ValueError('no repr')\nA()", "ValueError: no repr\n"),
        ("x = 1; import os; os.close(1)", ""),
    ],
)
async def test_whatever_code_raises_its_session_lives(sandbox: CPythonSandbox, code: str, shown: str) -> None:
    ran = await show(sandbox, "x = 1", code)
    assert shown in ran.text
    assert not ran.has_failed
    assert (await sandbox.run("x", ran.state)).text == "1\n"


async def test_an_import_that_fails_names_the_module(sandbox: CPythonSandbox) -> None:
    assert "No module named 'pydantic_monty'" in (await show(sandbox, "import pydantic_monty")).text


# What code can reach


@pytest.mark.parametrize(
    "code",
    [
        "open('/etc/passwd')",
        "open('/proc/self/environ')",
        f"open({str(ROOT / 'pyproject.toml')!r})",
        "open('/root/.bashrc')",
        "import os\nos.listdir('/home')",
        "import os\nos.listdir('/sys')",
        "import os\nos.listdir('/work')",
        "open('/new', 'w')",
        "open('/run/interpreter.py', 'a')",
        "open('/dev/new', 'w')",
        "open('/dev/sda')",
        "import sys\nopen(sys.prefix + '/new', 'w')",
        "import os\nos.chmod('/run', 0o777)",
        "import os\nos.mknod('/mnt/data/disk', 0o60666, os.makedev(8, 0))\nopen('/mnt/data/disk')",
        "import os\nos.setuid(0)",
        "import os\nos.chroot('/mnt')",
        "import os\nos.kill(1, 9)\nos.kill(1, 0) or open('/unkilled')",
        "import subprocess\nsubprocess.run(['/bin/sh', '-c', 'id'])",
    ],
)
async def test_code_cannot_reach_the_host(sandbox: CPythonSandbox, code: str) -> None:
    ran = await show(sandbox, code)
    assert any(error in ran.text for error in ("FileNotFoundError", "PermissionError", "OSError")), ran.text


async def test_code_has_no_network(sandbox: CPythonSandbox) -> None:
    listener = await asyncio.start_server(lambda _reader, _writer: None, "127.0.0.1", 0)
    port = listener.sockets[0].getsockname()[1]
    for address in (("127.0.0.1", port), ("192.0.2.1", 80)):
        code = f"import socket\nsocket.create_connection({address!r}, 5)"
        assert "OSError" in (text := (await show(sandbox, code)).text) or "ConnectionRefused" in text
    assert "gaierror" in (await show(sandbox, "import socket\nsocket.getaddrinfo('example.org', 80)")).text
    listener.close()


async def test_code_finds_no_variable_of_the_server_in_its_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("ANTIPHON_REDIS_URL", "redis://:hunter2@127.0.0.1")
    async with opened(LIMITS) as sandbox:
        names = (await show(sandbox, "import os\nsorted(os.environ)")).text
    allowed = {"HOME", "LANG", "LC_CTYPE", "MKL_NUM_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"}
    allowed |= {"PATH", "PWD", "PYTHONDONTWRITEBYTECODE", "TMPDIR"}
    assert set(eval(names)) <= allowed


async def test_code_has_no_rights_and_cannot_gain_any(sandbox: CPythonSandbox) -> None:
    probe = """
import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)
calls = {'unshare': (0x10000000,), 'setns': (0, 0), 'mount': (b'a', b'/mnt', b'tmpfs', 0, None),
    'ptrace': (0, 0, 0, 0), 'memfd_create': (b'a', 0), 'shmget': (0, 4096, 0o1600), 'keyctl': None}
{name: (getattr(libc, name)(*args) if args else libc.syscall(250, 0, 0), ctypes.get_errno())
    for name, args in calls.items()}
"""
    assert set(eval((await show(sandbox, probe)).text).values()) == {(-1, 1)}
    assert (
        await show(sandbox, "import os\nos.getuid() != 0 and os.getgroups() in ([], [65534])")
    ).text == "True\n"


async def test_a_session_sees_neither_files_nor_processes_of_another(sandbox: CPythonSandbox) -> None:
    first = await show(sandbox, "secret = 1\nopen('secret.txt', 'w').write('s')\nimport os\nos.getpid()")
    second = await show(
        sandbox, "import os\nos.listdir('/mnt/data'), os.listdir('/tmp'), os.listdir('/dev/shm')"
    )
    assert second.text == "([], [], [])\n"
    probe = """
import os
def is_there(pid):
    try: os.kill(pid, 0)
    except ProcessLookupError: return False
    except PermissionError: pass
    return True
[pid for pid in range(1, 40_000) if is_there(pid)]
"""
    assert (await show(sandbox, probe)).text == "[1, 2]\n"
    assert (await sandbox.run("secret, open('secret.txt').read()", first.state)).text == "(1, 's')\n"


# What code can take


async def test_memory_beyond_the_limit_is_refused_and_the_variables_stay(sandbox: CPythonSandbox) -> None:
    ran = await show(sandbox, "x = 1", "y = bytearray(10**9)", "x")
    assert ran.text == "1\n"
    assert "MemoryError" in (await show(sandbox, "y = bytearray(10**9)")).text


async def test_memory_that_processes_take_together_ends_the_session(sandbox: CPythonSandbox) -> None:
    code = """
import os, time
for _ in range(8):
    if os.fork() == 0:
        block = b'x' * (100 << 20)
        time.sleep(1000)
time.sleep(1000)
"""
    ran = await show(sandbox, "x = 1", code)
    assert ran.has_failed
    assert "[The code took more than 192 MiB of memory and was ended. The variables and files" in ran.text
    assert "NameError" in (await sandbox.run("x", ran.state)).text


async def test_a_fork_bomb_is_bounded_and_leaves_nothing_behind(sandbox: CPythonSandbox) -> None:
    bomb = (
        "import os\ntry:\n    while True: os.fork()\nexcept BlockingIOError as error:\n    print('refused')"
    )
    async with opened(replace(LIMITS, cell_s=4.0)) as own:
        bombing = asyncio.create_task(show(own, "x = 1", bomb))
        most = 0
        while not bombing.done():
            children = await asyncio.to_thread(processes.survey)
            most = max(most, sum(1 for _ in processes.descend(children, os.getpid())))
            await asyncio.wait({bombing}, timeout=0.05)
        assert "refused" in bombing.result().text or bombing.result().has_failed
    assert most < 24 + 30
    assert (await show(sandbox, "'others go on'")).text == "'others go on'\n"


@pytest.mark.parametrize(
    ("code", "is_kept"),
    [
        ("while True: pass", True),
        ("import time\ntime.sleep(1000)", True),
        ("import threading\nthreading.Event().wait()", True),
        ("import signal\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\nwhile True: pass", False),
    ],
)
async def test_code_that_never_ends_is_interrupted_and_if_need_be_ended(code: str, is_kept: bool) -> None:
    async with opened(replace(LIMITS, cell_s=4.0)) as sandbox:
        ran = await show(sandbox, "x = 1", f"print('begun')\n{code}")
        assert ran.has_failed
        assert ran.text.startswith("begun\n")
        said = (
            "and was interrupted. The variables stay" if is_kept else "could not be interrupted and was ended"
        )
        assert said in ran.text
        assert ("1\n" if is_kept else "NameError") in (await sandbox.run("x", ran.state)).text


async def test_output_is_cut_and_output_without_end_ends_the_code(sandbox: CPythonSandbox) -> None:
    cut = await show(sandbox, "print('x' * 1_000_000)\n'last'")
    assert len(cut.text.encode()) <= OUTPUT_BYTES_MAX
    assert cut.text.endswith("more bytes were printed]\n'last'\n")
    huge = await show(sandbox, "'y' * 5_000_000")
    assert len(huge.text.encode()) <= OUTPUT_BYTES_MAX
    endless = await show(sandbox, "import os\nwhile True: os.write(1, b'z' * 65536)")
    assert endless.has_failed
    assert "[The code printed without end and was ended." in endless.text


async def test_a_process_whose_first_thread_has_ended_is_ended_and_counted_as_well(
    sandbox: CPythonSandbox,
) -> None:
    """The kernel shows it as one that has ended, without any memory."""
    before = find_own_sandboxes()
    begin = """
import ctypes, os, threading, time
def beat():
    block = b"x" * (SIZE << 20)
    while True:
        with open("/mnt/data/beats", "a") as beats: beats.write("x")
        time.sleep(0.01)
if os.fork() == 0:
    threading.Thread(target=beat).start()
    ctypes.CDLL(None).syscall({"x86_64": 60, "aarch64": 93}[os.uname().machine], 0)
while not os.path.exists("/mnt/data/beats"): time.sleep(0.01)
"""
    async with opened(LIMITS) as own:
        ran = await show(own, "x = 1", begin.replace("SIZE", "1"))
        assert (ran.text, ran.has_failed) == ("", False)
        (outer,) = [each for each in find_own_sandboxes() if each not in before]
        left = [each.pid for each in processes.descend(processes.survey(), outer)]
        assert len(left) == 2, "the first process of the sandbox and the interpreter"
        assert (await own.run("x", ran.state)).text == "1\n"
    large = begin.replace("SIZE", "60") + "y = b'y' * (140 << 20)\ntime.sleep(1000)"
    assert "took more than 192 MiB of memory" in (await show(sandbox, large)).text


async def test_processes_that_have_ended_do_not_end_their_session(sandbox: CPythonSandbox) -> None:
    code = "import os\nfor _ in range(3):\n    if os.fork() == 0: os._exit(0)"
    ran = await show(sandbox, "x = 1", code)
    assert (ran.text, ran.has_failed) == ("", False)
    assert (await sandbox.run("x", ran.state)).text == "1\n"


async def test_files_beyond_the_limit_are_refused(sandbox: CPythonSandbox) -> None:
    one = await show(sandbox, "open('a', 'wb').write(b'x' * (5 << 20))")
    assert "OSError" in one.text
    many = "for i in range(9):\n    open(f'/dev/shm/{i}', 'wb').write(b'x' * (3 << 20))"
    assert "No space left on device" in (await show(sandbox, many)).text


@pytest.mark.parametrize(
    "code",
    [
        "import itertools, os\nfor i in itertools.count(): os.mknod(str(i))",
        "import itertools, os\nos.mknod('a')\nfor i in itertools.count(): os.link('a', str(i))",
        "import socket, time\nkept = []\ntry:\n    while True: kept += socket.socketpair()\n"
        "except OSError: time.sleep(1000)",
        "import socket, time\nlistener = socket.create_server(('127.0.0.1', 0))\n"
        "kept = [socket.create_connection(listener.getsockname()) for _ in range(20)]\ntime.sleep(1000)",
        "import os, socket, time\nfor _ in range(4):\n    kept = [socket.socketpair() for _ in range(30)]\n"
        "    if os.fork() != 0: time.sleep(1000)\ntime.sleep(1000)",
    ],
)
async def test_files_without_content_and_sockets_count_as_memory(code: str) -> None:
    async with opened(replace(LIMITS, memory_bytes=96 * MIB)) as own:
        ran = await show(own, "x = 1", code)
        assert "[The code took more than 96 MiB of memory and was ended." in ran.text


async def test_what_the_kernel_would_keep_uncounted_is_refused(sandbox: CPythonSandbox) -> None:
    probe = """
import ctypes, errno, fcntl, mmap, os, select, socket
libc = ctypes.CDLL(None, use_errno=True)
def call(*words):
    if libc.syscall(*words) < 0: raise OSError(ctypes.get_errno(), "")
def say(attempt):
    try: attempt()
    except OSError as error: return errno.errorcode[error.errno]
open("a", "w").close()
(read, write), (one, other) = os.pipe(), socket.socketpair()
[say(attempt) for attempt in (
    lambda: mmap.mmap(-1, 4096),
    lambda: os.open("/dev/zero", os.O_RDWR),
    lambda: os.openpty(),
    lambda: os.setxattr("a", "user.a", b"a"),
    lambda: fcntl.fcntl(write, 1031, 2**20),
    lambda: one.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2**20),
    lambda: one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2**20),
    lambda: socket.socket(40, socket.SOCK_STREAM),
    lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM, 262),
    lambda: select.epoll(),
    lambda: call(444, 0, 0, 1),
)]
"""
    assert (await show(sandbox, probe)).text == (
        "['EPERM', 'EACCES', 'ENOENT', 'EPERM', 'EPERM', 'EPERM', 'EPERM', 'EAFNOSUPPORT', "
        "'EPROTONOSUPPORT', 'EPERM', 'EPERM']\n"
    )


async def test_asyncio_works_with_sockets_and_processes_of_the_codes_own(sandbox: CPythonSandbox) -> None:
    code = """
import asyncio, mmap, sys
async def answer(reader, writer):
    writer.write((await reader.readline()).upper())
    writer.close()
server = await asyncio.start_server(answer, "127.0.0.1", 0)
reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
writer.write(b"by tcp\\n")
said = [await reader.readline()]
writer.close()
process = await asyncio.create_subprocess_exec(sys.executable, "-c", "print(1)", stdout=-1)
said.append((await process.communicate())[0])
said.append(await asyncio.to_thread(lambda: mmap.mmap(-1, 4096, mmap.MAP_PRIVATE).read(1)))
said
"""
    assert (await show(sandbox, code)).text == "[b'BY TCP\\n', b'1\\n', b'\\x00']\n"


async def test_what_a_cell_starts_ends_with_it_and_its_threads_stand_still(sandbox: CPythonSandbox) -> None:
    left = (
        "import subprocess, sys\n"
        "for _ in range(3): subprocess.Popen([sys.executable, '-c', 'while 1: 0', '98761'])"
    )
    ran = await show(sandbox, "x = 1", left)
    assert (ran.text, ran.has_failed) == ("", False)
    assert find_processes(98761) == []
    ran = await sandbox.run("x", ran.state)
    assert ran.text == "1\n"
    before = find_own_sandboxes()
    async with opened(LIMITS) as own:
        spinning = "import threading\ndef spin():\n    while True: pass"
        ran = await show(own, spinning, "threading.Thread(target=spin, daemon=True).start()")
        assert (ran.text, ran.has_failed) == ("", False)
        (outer,) = [each for each in find_own_sandboxes() if each not in before]
        _, interpreter = processes.descend(processes.survey(), outer)
        assert len(list(Path(f"/proc/{interpreter.pid}/task").iterdir())) == 2
        await until(lambda: has_stopped(interpreter.pid))
        assert (await own.run("threading.active_count()", ran.state)).text == "2\n"


# How sessions live and end


@pytest.mark.parametrize("code", ["import os\nos._exit(3)", "import ctypes\nctypes.string_at(0)"])
async def test_code_that_ends_its_interpreter_is_told_what_is_lost(
    sandbox: CPythonSandbox, code: str
) -> None:
    ran = await show(sandbox, "x = 1", f"print('begun')\n{code}")
    assert ran.text.endswith(
        "[The code ended its own interpreter. The variables and files of this session are lost; "
        "the next call begins anew]\n"
    )
    assert ran.text.startswith("begun\n")
    assert "NameError" in (await sandbox.run("x", ran.state)).text


@pytest.mark.parametrize(
    "answer",
    ["{}", "[]", "nonsense", '{"last": 7}', '{"last": "forged"}', "[" * 100_000],
)
async def test_code_that_forges_answers_harms_itself_only(sandbox: CPythonSandbox, answer: str) -> None:
    forge = f"""
import os, struct
raw = {answer!r}.encode()
for fd in range(3, 256):
    try: os.write(fd, struct.pack('<I', len(raw)) + raw)
    except OSError: pass
import threading; threading.Event().wait()
"""
    ran = await show(sandbox, forge)
    assert len(ran.text) < 1_000
    assert (await show(sandbox, "1 + 1")).text == "2\n"


async def test_an_announced_answer_of_any_length_is_not_waited_for(sandbox: CPythonSandbox) -> None:
    forge = (
        "import os\nfor fd in range(3, 256):\n    try: os.write(fd, b'\\xff' * 8)\n    except OSError: pass"
    )
    ran = await show(sandbox, forge)
    assert ran.has_failed


async def test_sessions_are_bounded_and_the_one_that_made_room_is_said_to_be_lost() -> None:
    async with opened(LIMITS, cells=2, sessions=2) as sandbox:
        first = await show(sandbox, "x = 'first'")
        second = await show(sandbox, "x = 'second'")
        await show(sandbox, "x = 'third'")
        assert (await sandbox.run("x", second.state)).text == "'second'\n"
        lost = await sandbox.run("'x' in globals()", first.state)
        assert lost.text.startswith("False\n[The variables and files of earlier calls are lost: ")
        assert lost.state is not None
        assert lost.state.partition(".")[0] != (first.state or "").partition(".")[0]


async def test_a_session_whose_calls_wait_makes_room_too_and_is_told() -> None:
    async with opened(LIMITS, cells=1, sessions=1) as sandbox:
        first = await show(sandbox, "x = 1")
        running = asyncio.create_task(sandbox.run("import threading\nthreading.Event().wait()", None))
        await until(lambda: sandbox.is_running)
        waiting = asyncio.create_task(sandbox.run("'x' in globals()", first.state))
        await until(lambda: sandbox.sessions == 2)
        running.cancel()
        lost = await waiting
        assert lost.text.startswith("False\n[The variables and files of earlier calls are lost: ")
        await asyncio.gather(running, return_exceptions=True)
        kept = await show(sandbox, "x = 1")
        calls = [sandbox.run("'other'", None), sandbox.run("'x' in globals()", kept.state)]
        other, told = await asyncio.gather(*calls)
        assert other.text == "'other'\n"
        assert told.text.startswith("False\n[The variables and files of earlier calls are lost: ")
        assert (await sandbox.run("1", told.state)).text == "1\n"


async def test_a_process_that_was_killed_between_two_calls_is_said_to_be_lost(
    sandbox: CPythonSandbox,
) -> None:
    def find_own() -> set[int]:
        return {process.pid for process in processes.descend(processes.survey(), os.getpid())}

    before = find_own()
    ran = await show(sandbox, "x = 1")
    own = find_own() - before
    os.kill(max(own), signal.SIGKILL)
    await until(lambda: not own & find_own())
    lost = await sandbox.run("'x' in globals()", ran.state)
    assert lost.text.startswith("False\n[The variables and files of earlier calls are lost: ")
    assert (await sandbox.run("1", lost.state)).text == "1\n"


async def test_code_has_the_packages_of_its_environment(tmp_path: Path) -> None:
    await asyncio.to_thread(need_bubblewrap)
    made = await asyncio.create_subprocess_exec(PYTHON, "-m", "venv", "--without-pip", str(tmp_path / "env"))
    assert await made.wait() == 0
    (packages,) = (tmp_path / "env").glob("lib/python*/site-packages")
    (packages / "our_package.py").write_text("answer = 42")
    (tmp_path / "beside.txt").write_text("not part of it")
    start = functools.partial(Interpreter.start, Walls.find(tmp_path / "env/bin/python", LIMITS))
    async with open_sandbox(start, LIMITS, OUTPUT_BYTES_MAX, 1, 1) as own:
        assert (await show(own, "import our_package\nour_package.answer")).text == "42\n"
        assert "FileNotFoundError" in (await show(own, f"open({str(tmp_path / 'beside.txt')!r})")).text


async def test_an_idle_session_is_ended() -> None:
    async with opened(replace(LIMITS, idle_s=0.1)) as sandbox:
        ran = await show(sandbox, "x = 1")
        await until(lambda: sandbox.sessions == 0)
        assert "are lost" in (await sandbox.run("1", ran.state)).text


async def test_a_call_given_up_is_interrupted_and_the_session_goes_on(sandbox: CPythonSandbox) -> None:
    ran = await show(sandbox, "x = 0")
    endless = asyncio.create_task(sandbox.run("x = 1\nwhile True: pass", ran.state))
    await until(lambda: sandbox.is_running)
    endless.cancel()
    await asyncio.gather(endless, return_exceptions=True)
    assert (await sandbox.run("x in (0, 1)", ran.state)).text.startswith("True\n")


async def test_a_repeated_call_waits_for_the_one_that_runs(sandbox: CPythonSandbox) -> None:
    ran = await show(sandbox, "x = 0")
    code = "x += 1\nx"
    both = await asyncio.gather(sandbox.run(code, ran.state), sandbox.run(code, ran.state))
    assert [each.text for each in both] == ["1\n", "1\n"]


async def test_a_call_made_again_is_known_by_its_name_whatever_has_run_since(
    sandbox: CPythonSandbox,
) -> None:
    first = await sandbox.run("x = 0", None, "first")
    second = await sandbox.run("x += 1\nx", first.state, "second")
    third = await sandbox.run("x += 1\nx", second.state, "third")
    assert (second.text, third.text) == ("1\n", "2\n")
    assert await sandbox.run("x += 1\nx", first.state, "second") == second
    assert await sandbox.run("x += 1\nx", None, "third") == third
    assert await sandbox.run("x = 0", None, "first") == first
    assert (await sandbox.run("x", third.state, "fourth")).text == "2\n"
    assert (await sandbox.run("'x' in globals()", None, "of another response")).text == "False\n"


async def test_two_calls_of_one_turn_with_the_same_code_are_two(sandbox: CPythonSandbox) -> None:
    ran = await show(sandbox, "x = 0")
    both = await asyncio.gather(*(sandbox.run("x += 1\nx", ran.state, name) for name in ("one", "other")))
    assert [each.text for each in both] == ["1\n", "2\n"]


async def test_a_branch_of_a_chain_is_told_that_others_have_run(sandbox: CPythonSandbox) -> None:
    trunk = await show(sandbox, "x = 0")
    await sandbox.run("x = 1", trunk.state)
    branch = await sandbox.run("x", trunk.state)
    assert branch.text.startswith("1\n[Other calls have run in this session since")


async def test_a_killed_server_leaves_no_process() -> None:
    await asyncio.to_thread(need_bubblewrap)
    program = (
        "import asyncio, sys\n"
        "from pathlib import Path\n"
        "from tests.integration.test_cpython_sandbox import LIMITS, opened, show\n"
        "async def main():\n"
        "    async with opened(LIMITS) as sandbox:\n"
        '        spin = \'import os, sys\\nif os.fork() == 0: os.execv(sys.executable, ["spin", "-c", '
        '"while 1: 0", "98762"])\\nwhile True: pass\'\n'
        "        await show(sandbox, spin)\n"
        "asyncio.run(main())\n"
    )
    server = await asyncio.create_subprocess_exec(sys.executable, "-c", program, cwd=ROOT)
    await until(lambda: find_processes(98762))
    server.send_signal(signal.SIGKILL)
    await server.wait()
    await until(lambda: not find_processes(98762))


HELD_WHILE_STARTING = """\
#!{python}
import os, sys
read, write = os.pipe()
os.set_blocking(write, False)
try:
    while os.write(write, bytes(4096)): pass
except BlockingIOError:
    os.set_blocking(write, True)
for descriptor in (read, write):
    os.set_inheritable(descriptor, True)
os.execv({program!r}, ["bwrap", "--info-fd", str(write), *sys.argv[1:]])
"""
"""bubblewrap writes to a full pipe, and so stands where it binds itself to its parent and its first process
still waits for it."""


async def test_a_server_killed_while_a_sandbox_starts_leaves_no_process(tmp_path: Path) -> None:
    await asyncio.to_thread(need_bubblewrap)
    program, memory_mib = tmp_path / "bwrap", 187
    program.write_text(HELD_WHILE_STARTING.format(python=sys.executable, program=shutil.which("bwrap")))
    program.chmod(0o755)
    server = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tool_runner.builtin.cpython", "--memory-mib", str(memory_mib)),
        cwd=ROOT,
        env={"PATH": str(tmp_path)},
        stdin=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )

    def find_sandbox() -> list[int]:
        """The outer and the first process of bubblewrap, known by a limit that no other test has."""
        return find_processes(memory_mib * MIB)

    await until(lambda: len(find_sandbox()) == 2)
    server.kill()
    await server.wait()
    await until(lambda: not find_sandbox())


async def test_calls_that_are_given_up_while_their_session_starts_leave_no_process() -> None:
    def find_own() -> set[int]:
        return {process.pid for process in processes.descend(processes.survey(), os.getpid())}

    before = find_own()
    async with opened(LIMITS) as own:
        for delay_s in (0.0, 0.005, 0.01, 0.02, 0.03, 0.05, 0.1):
            call = asyncio.create_task(own.run("1", None))
            await outlast(delay_s)
            call.cancel()
            await asyncio.gather(call, return_exceptions=True)
        assert (await own.run("1 + 1", None)).text == "2\n"
    await until(lambda: not find_own() - before)
    await until(lambda: not find_orphans())


def find_orphans() -> list[int]:
    """The processes of a sandbox with these limits that have lost their bubblewrap."""
    found = []
    for process in processes.survey().get(1, ()):
        with suppress(OSError):
            if str(LIMITS.memory_bytes).encode() in Path(f"/proc/{process.pid}/cmdline").read_bytes():
                found.append(process.pid)
    return found


async def test_the_end_of_the_sandbox_ends_every_session() -> None:
    def find_own() -> set[int]:
        return {process.pid for process in processes.descend(processes.survey(), os.getpid())}

    before = find_own()
    async with opened(LIMITS) as sandbox:
        await show(sandbox, "x = 1")
        own = find_own() - before
    assert len(own) >= 3
    await until(lambda: not [pid for pid in own if Path(f"/proc/{pid}").exists()])


AS_PLAIN_USER = """
import asyncio, json
from tests.integration.test_cpython_sandbox import LIMITS, PYTHON, Interpreter, Walls, opened
async def main():
    interpreter = await Interpreter.start(Walls.find(PYTHON, LIMITS))
    assert interpreter.counts_kernel_memory
    await interpreter.close()
    async with opened(LIMITS) as sandbox:
        cells = ["import os\\nos.getuid(), os.getgroups()", "os.kill(1, 9)\\nos.kill(1, 0)",
            "open('/new', 'w')",
            "import socket\\nsocket.create_connection(('192.0.2.1', 80), 5)", "open('/etc/passwd')",
            "try:\\n    while True: os.fork()\\nexcept BlockingIOError:\\n    print('refused')", "x = 1",
            "x, open('/mnt/data/a', 'w').write('a')"]
        ran, state = [], None
        for cell in cells:
            ran.append(await sandbox.run(cell, state))
            state = ran[-1].state
        print(json.dumps([each.text for each in ran]))
asyncio.run(main())
"""


async def test_a_server_that_is_a_plain_user_holds_its_sessions_as_well(tmp_path: Path) -> None:
    """As in a container, where a namespace of its own stands for the users that root would give."""
    if os.getuid() != 0:
        pytest.skip("every other test here is one of a server that is a plain user")
    await asyncio.to_thread(need_bubblewrap)
    packages = [path for path in sys.path if path.endswith("site-packages")]
    environment = {"PYTHONPATH": os.pathsep.join([str(ROOT), *packages]), "PYTHONDONTWRITEBYTECODE": "1"}
    environment |= {"PATH": os.defpath, "HOME": str(tmp_path)}
    become = ["setpriv", "--reuid=10001", "--regid=10001", "--clear-groups"]
    become += ["--inh-caps=-all", "--bounding-set=-all", "--no-new-privs"]
    for python in (str(PYTHON), "/usr/bin/python3"):
        tried = await asyncio.create_subprocess_exec(
            *become,
            *(python, "-c", "import sys, pydantic_core, pytest; open(sys.executable)"),
            env=environment,
            cwd=ROOT,
            stderr=subprocess.DEVNULL,
        )
        if await tried.wait() == 0:
            break
    else:
        pytest.skip("there is no Python of this version that a plain user may run")
    program = f"import sys; sys._base_executable = {python!r}\n{AS_PLAIN_USER}"
    server = await asyncio.create_subprocess_exec(
        *become,
        python,
        "-c",
        program,
        env=environment,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    output, errors = await server.communicate()
    assert server.returncode == 0, errors.decode()
    user, killed, written, network, host, forked, _, kept = eval(output)
    assert user == "(1000, [])\n"
    assert "NameError" not in killed
    assert all("OSError" in text or "Error: [Errno" in text for text in (written, network, host))
    assert "refused" in forked or "was ended" in forked
    assert "(1, 1)\n" in kept  # what was forked may say that it was refused as late as now


@pytest.mark.parametrize(
    ("program", "said"),
    [
        (None, "antiphon: bubblewrap is not installed (on Debian and Ubuntu: apt install bubblewrap)"),
        (
            "#!/bin/sh\necho 'bwrap: No permissions to create new namespace' >&2\nexit 1\n",
            "antiphon: bubblewrap cannot run Python here: bwrap: No permissions to create new namespace",
        ),
    ],
)
async def test_a_server_that_cannot_hold_code_says_why_and_does_not_start(
    tmp_path: Path, program: str | None, said: str
) -> None:
    if program is not None:
        (tmp_path / "bwrap").write_text(program)
        (tmp_path / "bwrap").chmod(0o755)
    server = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tool_runner.builtin.cpython"),
        cwd=ROOT,
        env={"PATH": str(tmp_path)},
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    _, errors = await server.communicate()
    assert server.returncode == 2
    assert errors.decode().startswith(said)
