"""The symlink that names the model in use (handbook 000, "Healthcheck fail")."""

import asyncio
import os

LOOK_S = 5.0


async def dangling(link: str | None) -> str:
    """What is wrong with the link, in an operator's words; empty when it leads somewhere.

    A disk that does not answer within 5 s is said to be just that.
    """
    if not link:
        return ""
    try:
        async with asyncio.timeout(LOOK_S):
            return await asyncio.to_thread(_look, link)
    except TimeoutError:
        return f"{link} could not be looked at within {LOOK_S:g} s; is its disk mounted?"


def _look(link: str) -> str:
    if os.path.exists(link):
        return ""
    if os.path.islink(link):
        return f"{link} points to {os.readlink(link)}, which does not exist"
    return f"{link} does not exist on this worker"
