"""The guardian: stops the server when its last user was killed and could not.

It is a small process that does one thing: it waits for the exclusive lock on ``users.lock``, which the kernel grants
when the last process that shares it is gone. There is no polling and no process id that could go stale. Where no
guardian can run (a program that embeds Python has no interpreter to start), a server whose last user was killed goes
on until the next process that uses it ends.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
from pathlib import Path

import tasker
from tasker.database.embedded.directory import Directory
from tasker.database.embedded.locks import FileLock
from tasker.database.embedded.postmaster import Postmaster
from tasker.errors import EmbeddedServerError

# -S: without the site module no .pth file, no coverage measurement and no start-up code of the user's runs in here. The
# first process forks and ends, so that the guardian is no child of the program that started it. While it waits it has
# imported next to nothing: a third of the memory.
_BOOT = """
import fcntl, os, sys
base, lock, *sys.path = sys.argv[1:]
if os.fork(): os._exit(0)
users = os.open(os.path.join(base, "users.lock"), os.O_RDWR)
fcntl.flock(users, fcntl.LOCK_EX)
from tasker.database.embedded.guardian import last_user_gone
last_user_gone(base)
"""


def ensure_guardian(directory: Directory) -> None:
    """Start the guardian unless there is one. The caller shares ``users.lock``.

    A guardian that has seen the last user go holds ``users.lock`` exclusively until it ends, so one that is seen
    here, beside a shared ``users.lock``, still waits and will see the caller go, too.
    """
    lock = FileLock(directory.guardian_lock)
    try:
        if not lock.try_acquire() or not _is_interpreter(sys.executable):
            return
        with directory.log.open("ab") as log, contextlib.suppress(OSError):
            packages = (Path(tasker.__file__).parent.parent, *sys.path)
            subprocess.run(
                [
                    *(sys.executable, "-I", "-S", "-c", _BOOT, directory.base, str(lock.fileno())),
                    *(path for path in map(str, packages) if path),
                ],
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=(lock.fileno(),),
                start_new_session=True,
                check=False,
            )
    finally:
        lock.give_up()


def last_user_gone(base: str) -> None:
    """Stop the server in ``base``. Runs in the guardian, which holds ``users.lock`` alone until it ends."""
    try:
        Postmaster(Directory(Path(base))).stop()
    except EmbeddedServerError as error:
        sys.stderr.write(f"{error}\n")


def _is_interpreter(executable: str | None) -> bool:
    return bool(executable) and Path(executable or "").name.startswith(("python", "pypy"))
