"""What one check found of one thing: the line of a report. Pure."""

from typing import Literal

from blocks.models import Frozen

Status = Literal["ok", "warn", "fail", "unknown"]
WORST_FIRST: tuple[Status, ...] = ("fail", "unknown", "warn", "ok")


class Finding(Frozen):
    """One check of one thing. What could not be measured is `unknown`, never `ok`."""

    check: str
    """What was checked, e.g. `decoding`, `p95 latency`, `certificate`."""
    subject: str
    """Of what: a service, `host motoko`, `alertmanager`."""
    status: Status
    value: str = ""
    """What was measured, with its unit, as an operator reads it; empty when nothing was."""
    threshold: str = ""
    """What it was held against."""
    evidence: str = ""
    """One line: how it is known, or why it is not."""
    suggests: str = ""
    """The procedure that would mend it, e.g. `remediate-outage`; empty when a person must."""
    advice: str = ""
    """What to do, where no procedure does it."""
