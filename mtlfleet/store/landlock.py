"""Take away this process's right to change files or to open connections, for good (Linux Landlock, no privileges
needed).

It must run before any thread is started: threads that exist keep their rights.
Source: Linux documentation, userspace-api/landlock.
"""

from __future__ import annotations

import ctypes
import os
import sys
from pathlib import Path

_CREATE, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_NO_NEW_PRIVS = 38
_EXECUTE = 1 << 0
_WRITES = {1: (1 << 1) | sum(1 << bit for bit in range(4, 13)), 2: 1 << 13, 3: 1 << 14, 5: 1 << 15}  # by ABI version
_NET = (1 << 0) | (1 << 1)  # bind, connect over TCP; ABI 4


class _Ruleset(ctypes.Structure):
    _fields_ = [("fs", ctypes.c_uint64), ("net", ctypes.c_uint64)]


class _PathBeneath(ctypes.Structure):
    _pack_ = 1
    _fields_ = [("allowed", ctypes.c_uint64), ("parent", ctypes.c_int32)]


def version() -> int:
    """Version of the kernel's Landlock interface; 0 where there is none."""
    if sys.platform != "linux":
        return 0
    libc = ctypes.CDLL(None, use_errno=True)
    return max(0, int(libc.syscall(_CREATE, None, ctypes.c_size_t(0), ctypes.c_uint32(1))))


def deny_writes(but: Path) -> bool:
    """From here on this process and its children read files, and write only below ``but``.

    Returns False where the kernel has no Landlock; the other layers of the guard must then do. Raises OSError when the
    kernel has it but refuses.
    """
    abi = version()
    if abi < 1:
        return False
    libc = ctypes.CDLL(None, use_errno=True)
    writes = 0
    for since, rights in _WRITES.items():
        writes |= rights if abi >= since else 0
    rules = _Ruleset(writes | _EXECUTE, _NET if abi >= 4 else 0)
    size = ctypes.c_size_t(16 if abi >= 4 else 8)
    ruleset = _checked(libc.syscall(_CREATE, ctypes.byref(rules), size, ctypes.c_uint32(0)))
    folder = os.open(but, os.O_PATH | os.O_CLOEXEC)
    try:
        beneath = _PathBeneath(writes, folder)
        _checked(libc.syscall(_ADD_RULE, ruleset, 1, ctypes.byref(beneath), ctypes.c_uint32(0)))
        _checked(libc.prctl(_NO_NEW_PRIVS, 1, 0, 0, 0))
        _checked(libc.syscall(_RESTRICT_SELF, ruleset, ctypes.c_uint32(0)))
    finally:
        os.close(folder)
        os.close(ruleset)
    return True


def _checked(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"Landlock: {os.strerror(number)}")
    return result
