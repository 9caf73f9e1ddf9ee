"""How far back: `30d`, `12h`, `2w`, or a date. Pure."""

import re
from datetime import UTC, datetime, timedelta

from blocks.errors import Permanent

_AGO = re.compile(r"(\d{1,5})([mhdw])")
_UNITS = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


def parse_since(text: str, now: datetime) -> datetime:
    """The instant that is meant, with a time zone.

    Raises:
        Permanent: it is neither a span nor a date, or lies ahead.
    """
    found = None
    if match := _AGO.fullmatch(text.strip()):
        found = now - timedelta(**{_UNITS[match[2]]: int(match[1])})
    else:
        try:
            found = datetime.fromisoformat(text.strip())
        except ValueError:
            words = "write 30d, 12h, 2w, or a date such as 2026-11-21"
            raise Permanent(f"since {text[:40]!r} is no span and no date; {words}") from None
    found = found if found.tzinfo else found.replace(tzinfo=UTC)
    if found > now:
        raise Permanent(f"since {text[:40]!r} lies ahead; nothing has ended there yet")
    return found
