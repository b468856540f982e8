"""Broker URLs: ``tasker-pgmq://`` followed by what libpq understands."""

from __future__ import annotations

import re
from urllib.parse import quote, urlencode

from psycopg import ProgrammingError, conninfo

from tasker.errors import ConfigurationError

SCHEME = "tasker-pgmq"

_PASSWORD_IN_AUTHORITY = re.compile(r"^([^/?#]*?:)([^/?#]*)(@)")
_PASSWORD_IN_QUERY = re.compile(r"([?&]password=)[^&]*")


def dsn_of_broker(url: str) -> str:
    """The connection string for libpq that a broker URL stands for.

    Args:
        url: ``tasker-pgmq://user:password@host:5432/database``; a unix socket as ``tasker-pgmq:///database?host=/directory``;
            several hosts and all other parameters as libpq has them.

    Raises:
        ConfigurationError: it is no such URL; the message does not show it, as it may hold a password.
    """
    scheme, separator, rest = url.partition("://")
    if not separator or scheme != SCHEME:
        raise ConfigurationError(
            f"a broker URL of this transport starts with {SCHEME}://",
            hint=f"write {SCHEME}://user:password@host:5432/database, or {SCHEME}:///database?host=/directory/of/socket",
            field="broker_url",
        )
    dsn = f"postgresql://{rest}"
    try:
        conninfo.conninfo_to_dict(dsn)
    except ProgrammingError as error:
        raise ConfigurationError(
            "the broker URL cannot be read as an address of PostgreSQL",
            hint="escape special characters in user and password as %XX",
            field="broker_url",
        ) from error
    return dsn


def broker_url_of(dsn: str) -> str:
    """The broker URL for a PostgreSQL URL (``postgresql://…``) or libpq connection string (``key=value …``)."""
    scheme, separator, rest = dsn.partition("://")
    if separator and scheme.partition("+")[0] in ("postgresql", "postgres"):
        return f"{SCHEME}://{rest}"
    # libpq's URLs know %20 for a space, and not the + of forms.
    return f"{SCHEME}:///?{urlencode(conninfo.conninfo_to_dict(dsn), quote_via=quote)}"


def masked(url: str, mask: str = "**") -> str:
    """``url`` without its password, for logs and monitors."""
    scheme, separator, rest = url.partition("://")
    rest = _PASSWORD_IN_AUTHORITY.sub(lambda found: f"{found[1]}{mask if found[2] else ''}{found[3]}", rest)
    return scheme + separator + _PASSWORD_IN_QUERY.sub(lambda found: found[1] + mask, rest)


class ShownUrl(str):
    """A broker URL as it may be shown, which remembers and compares as what it stands for.

    kombu tells the whole URL where it is asked about a connection, and Celery sends that to whoever asks a worker for
    its ``stats``: Flower shows it.
    """

    url: str

    def __new__(cls, url: str) -> ShownUrl:
        """``url`` with its password, or what was made of it."""
        whole = whole_url(url)
        shown = super().__new__(cls, masked(whole))
        shown.url = whole
        return shown

    def __eq__(self, other: object) -> bool:
        return self.url == (other.url if isinstance(other, ShownUrl) else other)

    def __ne__(self, other: object) -> bool:
        return not self == other

    def __hash__(self) -> int:
        return hash(self.url)

    def __reduce__(self) -> tuple[type[ShownUrl], tuple[str]]:
        return ShownUrl, (self.url,)


def whole_url(url: str) -> str:
    """``url`` with its password, if it was hidden by ``ShownUrl``."""
    return url.url if isinstance(url, ShownUrl) else url
