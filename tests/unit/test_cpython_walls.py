"""The walls around CPython as values: the filter of system calls and the command. Runs nothing."""

import errno
import struct
from pathlib import Path

import pytest

from tool_runner.builtin.cpython import processes
from tool_runner.builtin.cpython.bubblewrap import Limits, Runtime, choose_user, make_command
from tool_runner.builtin.cpython.kernel_memory import count_sockets
from tool_runner.builtin.cpython.seccomp import REFUSED, UnknownMachine, make_filter

MACHINES = {"x86_64": (0xC000003E, 0), "aarch64": (0xC00000B7, 1)}
"""What the kernel says of itself to a filter, and the column of the table."""
KILLED, ALLOWED = "killed", 0
RUNTIME = Runtime("/opt/python/bin/python3", "3.11.7", ("/opt/python",))


def decide(machine: str, number: int, *arguments: int, audit: int | None = None) -> str | int:
    """What the filter decides of a call, by running its program as the kernel does: an errno, 0 or KILLED."""
    six = (*arguments, *(6 - len(arguments)) * (0,))
    data = struct.pack("=IIQ6Q", number, audit or MACHINES[machine][0], 0, *six)
    program, at, value = make_filter(machine), 0, 0
    for _ in range(len(program) // 8):
        code, if_true, if_false, k = struct.unpack_from("=HBBI", program, at * 8)
        at += 1
        match code:
            case 0x20:
                (value,) = struct.unpack_from("=I", data, k)
            case 0x54:
                value &= k
            case 0x06:
                assert k >> 16 in (0x8000, 0x0005, 0x7FFF)
                return KILLED if k >> 16 == 0x8000 else k & 0xFFFF if k >> 16 == 5 else ALLOWED
            case _:
                is_true = {0x15: value == k, 0x35: value >= k, 0x45: bool(value & k)}[code]
                at += if_true if is_true else if_false
    raise AssertionError("the program does not end")


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("name", REFUSED)
def test_a_system_call_in_the_table_is_not_permitted(machine: str, name: str) -> None:
    assert decide(machine, REFUSED[name][MACHINES[machine][1]]) == errno.EPERM


@pytest.mark.parametrize(
    ("machine", "names"),
    [
        ("x86_64", {"read": 0, "write": 1, "mmap": 9, "fork": 57, "execve": 59, "fcntl": 72, "setuid": 105}),
        ("aarch64", {"read": 63, "write": 64, "mmap": 222, "execve": 221, "fcntl": 25, "setuid": 146}),
    ],
)
def test_other_system_calls_are_allowed_and_unknown_ones_do_not_exist(
    machine: str, names: dict[str, int]
) -> None:
    assert {name: decide(machine, number) for name, number in names.items()} == dict.fromkeys(names, ALLOWED)
    assert decide(machine, 463) == errno.ENOSYS
    assert decide(machine, 0x40000000 + 165) == errno.ENOSYS


@pytest.mark.parametrize(("machine", "clone"), [("x86_64", 56), ("aarch64", 220)])
def test_no_process_may_begin_in_a_namespace_of_its_own(machine: str, clone: int) -> None:
    thread = 0x3D0F00
    assert decide(machine, clone, thread) == ALLOWED
    for flag in (0x00020000, 0x02000000, 0x04000000, 0x08000000, 0x10000000, 0x20000000, 0x40000000):
        assert decide(machine, clone, thread | flag) == errno.EPERM
    assert decide(machine, 435) == errno.ENOSYS


@pytest.mark.parametrize("column", range(2))
def test_calls_that_differ_in_their_arguments_are_judged_by_them(column: int) -> None:
    machine = list(MACHINES)[column]
    mmap, socket, pair, option, fcntl, prctl = (
        numbers[column] for numbers in ((9, 222), (41, 198), (53, 199), (54, 208), (72, 25), (157, 167))
    )
    private, shared, anonymous, huge = 0x02, 0x01, 0x20, 0x40000
    assert [
        decide(machine, mmap, 0, 4096, 3, flags)
        for flags in (private | anonymous, shared, shared | anonymous, private | anonymous | huge)
    ] == [ALLOWED, ALLOWED, errno.EPERM, errno.EPERM]
    assert [decide(machine, socket, family, 1) for family in (1, 2, 10)] == [ALLOWED] * 3
    assert {decide(machine, socket, family, 3) for family in (0, 3, 16, 17, 38, 40)} == {errno.EAFNOSUPPORT}
    assert [decide(machine, socket, 2, 1, protocol) for protocol in (0, 6, 17)] == [ALLOWED] * 3
    assert {decide(machine, socket, 2, 1, each) for each in (1, 132, 262)} == {errno.EPROTONOSUPPORT}
    assert (decide(machine, pair, 1), decide(machine, pair, 30)) == (ALLOWED, errno.EAFNOSUPPORT)
    assert {decide(machine, option, 3, 1, name) for name in (7, 8, 32, 33)} == {errno.EPERM}
    assert [decide(machine, option, 3, 1, 2), decide(machine, option, 3, 6, 7)] == [ALLOWED] * 2
    assert (decide(machine, fcntl, 3, 1031), decide(machine, fcntl, 3, 6)) == (errno.EPERM, ALLOWED)
    assert [decide(machine, prctl, each, 1) for each in (22, 78, 15)] == [errno.EINVAL] * 2 + [ALLOWED]


def test_sockets_count_as_what_they_may_hold_at_the_most() -> None:
    four = "sockets: used 3\nTCP: inuse 1 orphan 0 tw 2 alloc 9 mem 7\nUDP: inuse 1 mem 3\nRAW: inuse 0\n"
    six = "TCP6: inuse 2\nUDP6: inuse 0\n"
    assert count_sockets([four], 1000) == 3 * 512 * 1024 + 1000 + 2 * 512
    assert count_sockets([four, six], 1000) == count_sockets([four], 1000) + 2000
    assert count_sockets([], 1000) == 0


def test_calls_of_another_instruction_set_end_the_process() -> None:
    assert decide("x86_64", 0, audit=0x40000003) == KILLED


def test_a_machine_without_a_table_is_refused() -> None:
    with pytest.raises(UnknownMachine, match="riscv64"):
        make_filter("riscv64")


def make(user: int = 0) -> list[str]:
    return make_command("bwrap", RUNTIME, Limits(), user, seccomp=7, answers=8, mark="of-this-server")


def test_the_walls_bind_the_runtime_only_and_nothing_to_write_to() -> None:
    command = make()
    bound = {command[i + 2] for i, word in enumerate(command) if word == "--ro-bind"} - {"/dev/zero"}
    assert command[command.index("/dev/zero") - 2 :][:2] == ["--ro-bind", "/dev/null"]
    assert "/opt/python" in bound
    libraries = {"/lib", "/lib64", "/usr/lib", "/usr/lib64", "/etc/ld.so.cache", "/usr/share/zoneinfo"}
    assert bound <= {"/opt/python", "/run/interpreter.py", *libraries}
    assert not {"--bind", "--dev-bind", "--proc", "--share-net"} & set(command)
    assert [command[i + 1] for i, word in enumerate(command) if word == "--remount-ro"] == [
        "/dev/pts",
        "/dev",
        "/",
    ]


def test_memory_to_write_to_is_bounded() -> None:
    command = make()
    places = [i for i, word in enumerate(command) if word == "--tmpfs"]
    assert [command[i + 1] for i in places] == ["/mnt/data", "/tmp", "/dev/shm", "/dev/pts"]
    assert all(command[i - 2] == "--size" and int(command[i - 1]) <= Limits().files_bytes for i in places)


def test_the_walls_share_no_namespace_and_pass_on_no_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANTIPHON_SECRETS_KEY", "hunter2")
    command = make()
    assert {"--unshare-pid", "--unshare-net", "--unshare-ipc", "--unshare-uts", "--unshare-user"} <= set(
        command
    )
    assert {"--die-with-parent", "--new-session", "--clearenv"} <= set(command)
    assert "hunter2" not in " ".join(command)


def test_a_server_that_is_root_gives_each_session_a_user_of_its_own() -> None:
    machine, container = "0 0 4294967295\n", "0 100000 65536\n"
    assert choose_user(1000, machine) == 0
    assert choose_user(0, machine) != choose_user(0, machine)
    assert 2**30 <= choose_user(0, machine) < 2**31
    assert 60_000 < choose_user(0, container) < 65_534
    command = make(user=60_706)
    assert command[command.index("--user") + 1] == "60706"
    granted = [command[i + 1] for i, word in enumerate(command) if word == "--cap-add"]
    assert granted == ["CAP_SETUID", "CAP_SETGID"]
    assert command.index("--cap-drop") < command.index("--cap-add")
    assert "--unshare-user" not in command


def test_a_process_that_ends_while_its_threads_are_read_takes_no_memory(tmp_path: Path) -> None:
    """Its folder is there at one moment and gone at the next; the watch over all sessions must go on."""
    assert processes._read_pages_of_threads(str(tmp_path / "gone")) == 0
    (tmp_path / "task" / "7").mkdir(parents=True)
    assert processes._read_pages_of_threads(str(tmp_path)) == 0
    (tmp_path / "task" / "7" / "statm").write_text("900 41 3 1 0 8 0\n")
    assert processes._read_pages_of_threads(str(tmp_path)) == 41
