"""Pings that say a scheduled procedure began and ended: who hears none knows that it did not."""

from pydantic import Field

from blocks.models import Frozen


class DeadMan(Frozen):
    """The check of one scheduled procedure at a service such as healthchecks."""

    start: str = Field(default="", description="URL that is asked when it begins")
    success: str = Field(default="", description="URL that is asked when it ends green")
