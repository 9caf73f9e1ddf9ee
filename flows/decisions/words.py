"""How a number is said to people. Pure."""


def span(seconds: float) -> str:
    """`45 s`, `12 min`, `3.5 h`, `4 days`; rounded down, so that no time left is overstated.

    Args:
        seconds: how long; below zero is taken for zero.
    """
    seconds = max(0.0, seconds)
    if seconds < 120:
        return f"{int(seconds)} s"
    if seconds < 3600:
        return f"{int(seconds / 60)} min"
    if seconds < 172_800:
        return f"{int(seconds / 360) / 10:g} h"
    return f"{int(seconds / 86_400)} days"
