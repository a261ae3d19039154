"""Prints the handle of a file (name_to_handle_at), or reads by a handle: handle.py PATH | handle.py MOUNTPOINT TYPE:HEX."""

import ctypes
import os
import sys

libc = ctypes.CDLL(None, use_errno=True)


class Handle(ctypes.Structure):
    _fields_ = [("bytes", ctypes.c_uint), ("type", ctypes.c_int), ("data", ctypes.c_ubyte * 128)]


def check(result):
    if result < 0:
        sys.exit(os.strerror(ctypes.get_errno()))
    return result


if len(sys.argv) == 2:
    handle, mount = Handle(128), ctypes.c_int()
    check(libc.name_to_handle_at(-100, sys.argv[1].encode(), ctypes.byref(handle), ctypes.byref(mount), 0))
    print(f"{handle.type}:{bytes(handle.data[: handle.bytes]).hex()}", end="")
else:
    kind, data = sys.argv[2].split(":")
    data = bytes.fromhex(data)
    handle = Handle(len(data), int(kind), (ctypes.c_ubyte * 128)(*data))
    top = os.open(sys.argv[1], os.O_RDONLY)
    file = check(libc.open_by_handle_at(top, ctypes.byref(handle), os.O_RDONLY))
    print(os.pread(file, 30, 0).decode(), end="")
