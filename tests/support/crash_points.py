"""Kill a process before its n-th change of a folder, as a power cut or ``kill -9`` might."""

import os
import sys
from pathlib import Path

KILLED = 77
_CHANGES = {"os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.truncate", "os.link"}
# Their last argument is the descriptor of the folder that the path is relative to, or -1.
_IN_FOLDERS = {"os.remove", "os.rmdir", "os.mkdir"}
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC


def _is_change(event, arguments, root):
    if event not in _CHANGES and (event != "open" or not arguments[2] & _WRITING):
        return False
    path, folder = arguments[0], arguments[-1]
    if not isinstance(path, str | bytes):
        return False  # the number of an open file
    if event in _IN_FOLDERS and folder >= 0:
        path = Path(f"/proc/self/fd/{folder}").readlink() / os.fsdecode(path)
    return os.fsdecode(path).startswith(str(root))


def _count_changes(root, on_change):
    """Call a function with the number of each change of files below a folder, from 0."""
    number = 0

    def hook(event, arguments):
        nonlocal number
        if _is_change(event, arguments, root):
            on_change(number)
            number += 1

    sys.addaudithook(hook)


def killed_before(number, action, root):
    """Run an action in a forked process that ends before its n-th change of files below ``root``.

    Returns:
        Whether it was killed; if not, the action has ended before that change.
    """
    child = os.fork()
    if child == 0:
        code = 1
        try:
            _count_changes(root, lambda n: os._exit(KILLED) if n == number else None)
            action()
            code = 0
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    assert code in (0, KILLED), f"the process ended with {code} before change {number}"
    return code == KILLED


def count_changes(action, root: Path, scratch: Path):
    """Run an action in a forked process and return the number of its changes below ``root``."""
    child = os.fork()
    if child == 0:
        last = -1

        def note(number):
            nonlocal last
            last = number

        try:
            _count_changes(root, note)
            action()
            scratch.write_text(str(last + 1))
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    return int(scratch.read_text())
