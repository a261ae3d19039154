"""cpio.py DIR: writes a directory as a cpio archive (newc) to standard output, as an initramfs."""

import os
import stat
import sys

out = sys.stdout.buffer
number = 0


def record(name, mode, data=b"", major=0, minor=0):
    global number
    number += 1
    encoded = name.encode() + b"\0"
    fields = (number, mode, 0, 0, 1, 0, len(data), 0, 0, major, minor, len(encoded), 0)
    head = ("070701" + "".join("%08x" % field for field in fields)).encode() + encoded
    for part in (head, data):
        out.write(part + b"\0" * (-len(part) % 4))


root = sys.argv[1]
for directory, directories, names in os.walk(root):
    for name in sorted(directories + names):
        path = os.path.join(directory, name)
        mode = os.lstat(path).st_mode
        if stat.S_ISLNK(mode):
            data = os.readlink(path).encode()
        elif stat.S_ISDIR(mode):
            data = b""
        else:
            data = open(path, "rb").read()
        record(os.path.relpath(path, root), mode, data)
record("dev/console", 0o20600, b"", 5, 1)
record("dev/null", 0o20666, b"", 1, 3)
record("TRAILER!!!", 0)
