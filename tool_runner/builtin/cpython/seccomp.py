"""Makes the filter of system calls that code in the sandbox runs under, as a program for the kernel. Pure.

Owns the list of what is refused. It names what code needs no more than a notebook does, and what would hold
memory that no limit counts (`kernel_memory.py` counts files and sockets); everything else stays allowed,
because the namespaces are the wall.
"""

import re
import struct
from dataclasses import dataclass
from typing import Final

_TABLE = """
# Namespaces, mounts and roots: a namespace of its own would give code rights over it.
mount 165 40, umount2 166 39, pivot_root 155 41, chroot 161 51, unshare 272 97, setns 308 268,
open_tree 428 428, move_mount 429 429, fsopen 430 430, fsconfig 431 431, fsmount 432 432,
fspick 433 433, mount_setattr 442 442, swapon 167 224, swapoff 168 225, quotactl 179 60,
open_by_handle_at 304 265, name_to_handle_at 303 264, acct 163 89
# The kernel itself.
bpf 321 280, perf_event_open 298 241, userfaultfd 323 282, reboot 169 142, init_module 175 105,
finit_module 313 273, delete_module 176 106, kexec_load 246 104, kexec_file_load 320 294,
syslog 103 116, io_uring_setup 425 425, io_uring_enter 426 426, io_uring_register 427 427,
settimeofday 164 170, clock_settime 227 112, clock_adjtime 305 266, adjtimex 159 171,
sethostname 170 161, setdomainname 171 162, fanotify_init 300 262, lookup_dcookie 212 18,
vhangup 153 58
# Other processes, and keys that outlive a process.
ptrace 101 117, process_vm_readv 310 270, process_vm_writev 311 271, pidfd_getfd 438 438, kcmp 312 272,
process_madvise 440 440, add_key 248 217, request_key 249 218, keyctl 250 219, move_pages 279 239,
migrate_pages 256 238, mbind 237 235
# Memory that belongs to no process, which the limits do not see.
memfd_create 319 279, memfd_secret 447 447, shmget 29 194, msgget 68 186, semget 64 190,
mq_open 240 180
# What the kernel keeps for code, as much as it asks for: pages that only a pipe holds, watches of files and
# descriptors (asyncio then polls), rules, filters, rings of requests, attributes and access lists of files.
vmsplice 278 75, inotify_init 253 26, inotify_init1 294 26, epoll_create 213 20, epoll_create1 291 20,
landlock_create_ruleset 444 444, landlock_add_rule 445 445, landlock_restrict_self 446 446,
seccomp 317 277, io_setup 206 0, setxattr 188 5, lsetxattr 189 6, fsetxattr 190 7
"""
REFUSED: Final = {
    name: (int(x86_64), int(aarch64)) for name, x86_64, aarch64 in re.findall(r"(\w+) (\d+) (\d+)", _TABLE)
}
"""Name -> its number on x86_64 and on aarch64, which has only the later one of some pairs. Source: the
kernel's asm/unistd_64.h and asm-generic/unistd.h."""

_NUMBERS_MAX = 462
"""Later numbers answer that there is no such call, as an earlier kernel would: nobody has judged them. So do
x86_64's second set of numbers (x32), which begin far above and would bypass a list of the first."""
_CLONE3 = 435
_NEW_NAMESPACES = 0x7E020080
"""CLONE_NEWTIME, NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID and NEWNET."""
_NEW_TIME_NAMESPACE = 0x80
"""Means a signal's bits in `clone`, and a namespace in `clone3` and `unshare` only."""

_LOAD, _AND, _JUMP_EQUAL, _JUMP_AT_LEAST, _JUMP_ANY_BIT, _RETURN = 0x20, 0x54, 0x15, 0x35, 0x45, 0x06
_KILL, _ERRNO, _ALLOW = 0x80000000, 0x00050000, 0x7FFF0000
_EPERM, _EINVAL, _ENOSYS, _EPROTONOSUPPORT, _EAFNOSUPPORT = 1, 22, 38, 93, 97
_OFFSET_OF_NUMBER, _OFFSET_OF_MACHINE, _OFFSET_OF_ARGUMENTS = 0, 4, 16
_ARGUMENT_BYTES = 8

_Step = tuple[int, int, int, int]
"""Code, steps to skip if true, steps to skip if false, constant: one `struct sock_filter`."""


@dataclass(frozen=True, slots=True)
class _Machine:
    audit: int
    column: int
    """Which of the two numbers is its own."""


_MACHINES = {"x86_64": _Machine(0xC000003E, 0), "aarch64": _Machine(0xC00000B7, 1)}


class UnknownMachine(Exception):
    """The numbers of this machine's system calls are not in the table."""


def make_filter(machine: str) -> bytes:
    """Returns the program for `bwrap --seccomp`: an array of `struct sock_filter`.

    `machine`: as `os.uname()` names it. Raises UnknownMachine.
    """
    try:
        own = _MACHINES[machine]
    except KeyError:
        raise UnknownMachine(
            f"no list of system calls for {machine}; there is one for x86_64 and aarch64"
        ) from None
    refused = sorted({numbers[own.column] for numbers in REFUSED.values()})
    program = [
        (_LOAD, 0, 0, _OFFSET_OF_MACHINE),
        (_JUMP_EQUAL, 1, 0, own.audit),
        (_RETURN, 0, 0, _KILL),
        (_LOAD, 0, 0, _OFFSET_OF_NUMBER),
        # clone3 passes its flags in memory, where no filter can read them; C libraries then use clone.
        *_unless_equal(_CLONE3, _ENOSYS),
        (_JUMP_AT_LEAST, 0, 1, _NUMBERS_MAX + 1),
        (_RETURN, 0, 0, _ERRNO | _ENOSYS),
        *(step for number in refused for step in _unless_equal(number, _EPERM)),
        *(step for numbers, judge in _JUDGED for step in _if_called(numbers[own.column], judge)),
        (_RETURN, 0, 0, _ALLOW),
    ]
    return b"".join(struct.pack("=HBBI", *step) for step in program)


def _unless_equal(value: int, errno: int) -> list[_Step]:
    return [(_JUMP_EQUAL, 0, 1, value), (_RETURN, 0, 0, _ERRNO | errno)]


def _if_called(number: int, judge: list[_Step]) -> list[_Step]:
    """Steps that judge a call by its arguments; what they do not refuse is allowed."""
    return [(_JUMP_EQUAL, 0, len(judge) + 1, number), *judge, (_RETURN, 0, 0, _ALLOW)]


def _load(argument: int) -> _Step:
    """The lower half of an argument: of an int, all that the kernel reads."""
    return _LOAD, 0, 0, _OFFSET_OF_ARGUMENTS + argument * _ARGUMENT_BYTES


def _allow_only(argument: int, values: tuple[int, ...], errno: int) -> list[_Step]:
    past = [(_JUMP_EQUAL, len(values) - i, 0, value) for i, value in enumerate(values)]
    return [_load(argument), *past, (_RETURN, 0, 0, _ERRNO | errno)]


def _refuse_bits(argument: int, bits: int) -> list[_Step]:
    """Refuses a call whose argument has any of the bits."""
    return [_load(argument), (_JUMP_ANY_BIT, 0, 1, bits), (_RETURN, 0, 0, _ERRNO | _EPERM)]


_SHARED, _ANONYMOUS, _HUGE = 0x01, 0x20, 0x40000
_SOL_SOCKET, _BUFFER_SIZES = 1, (7, 8, 32, 33)
"""SO_SNDBUF, SO_RCVBUF and the two that force them."""
_UNIX, _IPV4, _IPV6, _ANY_PROTOCOL, _TCP, _UDP = 1, 2, 10, 0, 6, 17
_SET_PIPE_SIZE = 1031
_OPTIONS = (22, 78)
"""PR_SET_SECCOMP and PR_FUTEX_HASH, of any size."""
_JUDGED: Final[tuple[tuple[tuple[int, int], list[_Step]], ...]] = (
    ((56, 220), _refuse_bits(0, _NEW_NAMESPACES & ~_NEW_TIME_NAMESPACE)),  # clone
    # mmap: pages that processes share without a file stay when they are mapped nowhere, where no limit sees
    # them, and so do huge ones of the machine's pool.
    (
        (9, 222),
        [
            *_refuse_bits(3, _HUGE),
            (_AND, 0, 0, _SHARED | _ANONYMOUS),
            *_unless_equal(_SHARED | _ANONYMOUS, _EPERM),
        ],
    ),
    # socket: families that no namespace of the network holds (a vsock leads to the host of a virtual
    # machine), or whose memory is not counted, do not exist.
    (
        (41, 198),
        [
            *_allow_only(0, (_UNIX, _IPV4, _IPV6), _EAFNOSUPPORT),
            *_allow_only(2, (_ANY_PROTOCOL, _TCP, _UDP), _EPROTONOSUPPORT),
        ],
    ),
    ((53, 199), _allow_only(0, (_UNIX,), _EAFNOSUPPORT)),  # socketpair
    # setsockopt: a socket's buffers keep the sizes with which they are counted.
    (
        (54, 208),
        [
            _load(1),
            (_JUMP_EQUAL, 0, 1 + 2 * len(_BUFFER_SIZES), _SOL_SOCKET),
            _load(2),
            *(step for option in _BUFFER_SIZES for step in _unless_equal(option, _EPERM)),
        ],
    ),
    ((72, 25), [_load(1), *_unless_equal(_SET_PIPE_SIZE, _EPERM)]),  # fcntl
    ((157, 167), [_load(0), *(step for each in _OPTIONS for step in _unless_equal(each, _EINVAL))]),  # prctl
)
"""Number on x86_64 and on aarch64, and what is refused of it."""
