"""The pause image: one tiny static program that holds a pod's namespaces.

Assembled here, so that no compiler is needed. The program ignores SIGCHLD (orphans that it inherits in
a shared pid namespace are then reaped by the kernel), blocks SIGTERM and SIGINT, sleeps in
rt_sigtimedwait until one of them comes, and exits with 0.
"""

from __future__ import annotations

import struct
from collections.abc import Callable

from kci.kit import errors
from kci.stack.images import oci

_BASE = 0x400000
_HEADERS_SIZE = 64 + 56
_SIGCHLD = 17
# Kernel's struct sigaction: handler SIG_IGN, no flags, no restorer, empty mask.
_IGNORE = struct.pack("<QQQQ", 1, 0, 0, 0)
_SIGNALS = struct.pack("<Q", 1 << (15 - 1) | 1 << (2 - 1))
_MASK_SIZE = 8
_X86_64, _AARCH64 = 62, 183
# Code for the addresses of the two constants; as long for any addresses.
_Assembler = Callable[[int, int], bytes]


def build(architecture: str) -> oci.Image:
    return oci.build(
        [oci.file("pause", program(architecture), mode=0o755)],
        oci.Process(entrypoint=("/pause",)),
        architecture=architecture,
    )


def program(architecture: str) -> bytes:
    """The whole ELF file for `amd64` or `arm64`."""
    match architecture:
        case "amd64":
            return _elf(_X86_64, _amd64_code)
        case "arm64":
            return _elf(_AARCH64, _arm64_code)
        case _:
            raise errors.UserError(
                f"cannot make a pause program for {architecture!r}: amd64 and arm64 are known"
            )


def _elf(machine: int, assemble: _Assembler) -> bytes:
    """One loadable segment: headers, code, then the two constants the code points to."""
    start = _BASE + _HEADERS_SIZE
    constants = start + len(assemble(0, 0))
    body = assemble(constants, constants + len(_IGNORE)) + _IGNORE + _SIGNALS
    size = _HEADERS_SIZE + len(body)
    identity = b"\x7fELF\x02\x01\x01" + bytes(9)
    header = identity + struct.pack("<HHIQQQIHHHHHH", 2, machine, 1, start, 64, 0, 0, 64, 56, 1, 64, 0, 0)
    segment = struct.pack("<IIQQQQQQ", 1, 5, 0, _BASE, _BASE, size, size, 0x10000)
    return header + segment + body


def _amd64_code(ignore: int, signals: int) -> bytes:
    def set_register(opcode: bytes, value: int) -> bytes:
        return opcode + struct.pack("<I", value)

    eax, edi, esi, r10d = b"\xb8", b"\xbf", b"\xbe", b"\x41\xba"
    no_edi, no_esi, no_edx = b"\x31\xff", b"\x31\xf6", b"\x31\xd2"
    syscall = b"\x0f\x05"
    mask_size = set_register(r10d, _MASK_SIZE)
    rt_sigaction = set_register(eax, 13) + set_register(edi, _SIGCHLD) + set_register(esi, ignore)
    rt_sigprocmask = set_register(eax, 14) + no_edi + set_register(esi, signals)
    rt_sigtimedwait = set_register(eax, 128) + set_register(edi, signals) + no_esi
    wait = rt_sigtimedwait + no_edx + mask_size + syscall + b"\x85\xc0"  # test eax, eax
    again = b"\x78" + struct.pack("<b", -len(wait) - 2)  # js: interrupted, wait again
    leave = no_edi + set_register(eax, 60) + syscall
    return (
        rt_sigaction + no_edx + mask_size + syscall
        + rt_sigprocmask + no_edx + mask_size + syscall
        + wait + again + leave
    )  # fmt: skip


def _arm64_code(ignore: int, signals: int) -> bytes:
    def set_register(register: int, value: int) -> list[int]:
        low, high = value & 0xFFFF, value >> 16
        return [0xD2800000 | low << 5 | register, 0xF2A00000 | high << 5 | register]  # movz, movk lsl 16

    def call(number: int, *arguments: int) -> list[int]:
        code = [word for register, value in enumerate(arguments) for word in set_register(register, value)]
        return [*code, *set_register(8, number), 0xD4000001]  # svc 0

    wait = call(137, signals, 0, 0, _MASK_SIZE)
    words = [
        *call(134, _SIGCHLD, ignore, 0, _MASK_SIZE),
        *call(135, 0, signals, 0, _MASK_SIZE),
        *wait,
        0xB7F80000 | (-len(wait) & 0x3FFF) << 5,  # tbnz x0, 63: interrupted, wait again
        *call(93, 0),
    ]
    return struct.pack(f"<{len(words)}I", *words)
