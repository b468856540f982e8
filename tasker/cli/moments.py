"""Times as people write them on a command line."""

from __future__ import annotations

import datetime as dt

from tasker.errors import InvalidRequest

_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def moment(text: str, field: str) -> dt.datetime:
    """An ISO 8601 time; one without an offset is in this machine's zone.

    Raises:
        InvalidRequest: it is none; ``field`` names the option.
    """
    try:
        parsed = dt.datetime.fromisoformat(text)
    except ValueError as error:
        raise InvalidRequest(
            f"{text!r} is no time", hint="write it like 2027-01-31T08:00:00+01:00", field=field
        ) from error
    return parsed if parsed.tzinfo is not None else parsed.astimezone()


def since(text: str) -> dt.datetime:
    """As ``moment``, or so long ago: ``90s``, ``15m``, ``12h``, ``7d``."""
    ago = _duration(text)
    return moment(text, "since") if ago is None else dt.datetime.now(dt.UTC) - ago


def interval(text: str, field: str) -> dt.timedelta:
    """A length of time: ``90s``, ``15m``, ``12h``, ``7d``.

    Raises:
        InvalidRequest: it is none; ``field`` names the option.
    """
    found = _duration(text)
    if found is None:
        raise InvalidRequest(f"{text!r} is no length of time", hint="write it like 90s, 15m, 12h or 7d", field=field)
    return found


def _duration(text: str) -> dt.timedelta | None:
    seconds = _SECONDS.get(text[-1:])
    if seconds is None or not text[:-1].isdecimal() or len(text) > 10:
        return None
    return dt.timedelta(seconds=seconds * int(text[:-1]))
