"""Runs a command as on Linux 5.15: what later kernels have added is refused as that one refuses it.

    python3 older_kernel.py COMMAND ARGUMENT...

A seccomp filter refuses later system calls and flags. Landlock is answered by this process: version 1, and no rights of later versions.
Without a command: whether the filter does what it is for.
"""
import array, ctypes, errno, fcntl, os, platform, select, socket, struct, sys

NUMBERS = {
    "x86_64": dict(arch=0xC000003E, seccomp=317, memfd_create=319, prctl=157, madvise=28, setsockopt=54, getsockopt=55,
                   preadv2=327, pwritev2=328, name_to_handle_at=303),
    "aarch64": dict(arch=0xC00000B7, seccomp=277, memfd_create=279, prctl=167, madvise=233, setsockopt=208, getsockopt=209,
                    preadv2=286, pwritev2=287, name_to_handle_at=264),
}
NR = NUMBERS[platform.machine()]
# The same on all architectures; 448 is the last one of Linux 5.15.
LAST, PIDFD_OPEN, CREATE_RULESET, RESTRICT_SELF = 448, 434, 444, 446
ALLOW, NOTIFY, ERRNO = 0x7FFF0000, 0x7FC00000, 0x00050000
LD, JEQ, JGT, JGE, JSET, RET = 0x20, 0x15, 0x25, 0x35, 0x45, 0x06
RECEIVE, SEND, CONTINUE = 0xC0502100, 0xC0182101, 1
# linux/landlock.h of 5.15: 13 rights of files.
RIGHTS = 0x1FFF


def refuse(number, argument, test, value, answer):
    """If `number` is called and its argument passes the test, it fails."""
    return [(LD, 0, 0, 0), (JEQ, 0, 3, number), (LD, 0, 0, 16 + 8 * argument), (test, 0, 1, value), (RET, 0, 0, ERRNO | answer)]


def program():
    code = [(LD, 0, 0, 4), (JEQ, 1, 0, NR["arch"]), (RET, 0, 0, ALLOW), (LD, 0, 0, 0)]
    code += [(JGT, 0, 1, LAST), (RET, 0, 0, ERRNO | errno.ENOSYS), (JEQ, 0, 1, CREATE_RULESET), (RET, 0, 0, NOTIFY)]
    code += refuse(RESTRICT_SELF, 1, JSET, 0xFFFFFFFF, errno.EINVAL)
    # MFD_NOEXEC_SEAL, MFD_EXEC
    code += refuse(NR["memfd_create"], 1, JSET, 0x18, errno.EINVAL)
    code += refuse(NR["seccomp"], 1, JSET, 0xFFFFFFE0, errno.EINVAL)
    # AT_HANDLE_MNT_ID_UNIQUE, AT_HANDLE_FID
    code += refuse(NR["name_to_handle_at"], 4, JSET, 0x201, errno.EINVAL)
    # PIDFD_THREAD
    code += refuse(PIDFD_OPEN, 1, JSET, 0x80, errno.EINVAL)
    for call in ("preadv2", "pwritev2"):
        # RWF_NOAPPEND and later
        code += refuse(NR[call], 5, JSET, 0xFFFFFFE0, errno.EOPNOTSUPP)
    for advice in (24, 25, 102, 103):
        code += refuse(NR["madvise"], 2, JEQ, advice, errno.EINVAL)
    for option in list(range(63, 100)) + [0x53564D41]:
        code += refuse(NR["prctl"], 0, JEQ, option, errno.EINVAL)
    for call in ("setsockopt", "getsockopt"):
        # Of level SOL_SOCKET: SO_RESERVE_MEM and later
        code += [(LD, 0, 0, 0), (JEQ, 0, 5, NR[call]), (LD, 0, 0, 24), (JEQ, 0, 3, 1), (LD, 0, 0, 32), (JGT, 0, 1, 72)]
        code += [(RET, 0, 0, ERRNO | errno.ENOPROTOOPT)]
    return code + [(RET, 0, 0, ALLOW)]


def install():
    code = b"".join(struct.pack("=HBBI", *line) for line in program())
    buffer = ctypes.create_string_buffer(code)
    descriptor = struct.pack("@HP", len(code) // 8, ctypes.addressof(buffer))
    libc = ctypes.CDLL(None, use_errno=True)
    if os.geteuid() != 0:
        libc.prctl(38, 1, 0, 0, 0)
    listener = libc.syscall(NR["seccomp"], 1, 8, ctypes.create_string_buffer(descriptor))
    if listener < 0:
        sys.exit(f"no filter: {os.strerror(ctypes.get_errno())}")
    return listener


def landlock(pid, address, size, flags):
    """What landlock_create_ruleset answers in Linux 5.15; None when the kernel may do it."""
    if flags == 1 and address == 0 and size == 0:
        return 1
    if flags != 0 or size < 8:
        return -errno.EINVAL
    with open(f"/proc/{pid}/mem", "rb", buffering=0) as memory:
        memory.seek(address)
        attribute = memory.read(size)
    if any(attribute[8:]):
        return -errno.E2BIG
    if struct.unpack_from("=Q", attribute)[0] & ~RIGHTS:
        return -errno.EINVAL
    return None


def supervise(listener, child):
    poll = select.poll()
    poll.register(listener, select.POLLIN)
    while True:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        if not any(event & select.POLLIN for _, event in poll.poll(50)):
            continue
        request = bytearray(80)
        try:
            fcntl.ioctl(listener, RECEIVE, request)
        except OSError:
            continue
        number, pid, _, _, _, _, address, size, flags = struct.unpack_from("=QIIiIQQQQ", request)
        try:
            value = landlock(pid, address, size, flags & 0xFFFFFFFF)
        except OSError:
            value = -errno.EFAULT
        if value is None:
            answer = struct.pack("=QqiI", number, 0, 0, CONTINUE)
        else:
            answer = struct.pack("=QqiI", number, max(value, 0), min(value, 0), 0)
        try:
            fcntl.ioctl(listener, SEND, answer)
        except OSError:
            pass


def check():
    libc = ctypes.CDLL(None, use_errno=True)

    def fails(*arguments):
        return ctypes.get_errno() if libc.syscall(*map(ctypes.c_long, arguments)) < 0 else 0

    assert libc.syscall(CREATE_RULESET, None, 0, 1) == 1
    attribute = ctypes.create_string_buffer(struct.pack("=QQ", RIGHTS, 0))
    assert libc.syscall(CREATE_RULESET, attribute, 16, 0) > 0
    for late, size in ((struct.pack("=QQ", RIGHTS, 1), 16), (struct.pack("=Q", 1 << 13), 8)):
        assert libc.syscall(CREATE_RULESET, ctypes.create_string_buffer(late), size, 0) < 0
    # fchmodat2, statmount, listmount, mseal
    for number in (452, 457, 458, 462):
        assert fails(number, 0, 0, 0, 0) == errno.ENOSYS, number
    assert fails(NR["memfd_create"], ctypes.addressof(attribute), 8) == errno.EINVAL
    assert fails(NR["prctl"], 65, 1, 0, 0, 0) == errno.EINVAL
    print("older")


def main(command):
    ours, theirs = socket.socketpair()
    child = os.fork()
    if child == 0:
        listener = install()
        socket.send_fds(theirs, [b"x"], [listener])
        os.close(listener)
        if command:
            os.execvp(command[0], command)
        check()
        os._exit(0)
    theirs.close()
    received = socket.recv_fds(ours, 1, 1)[1]
    if not received:
        sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) or 1)
    sys.exit(supervise(received[0], child))


main(sys.argv[1:])
