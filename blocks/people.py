"""Who works on a platform, and who may start and approve what."""

from typing import Literal

from pydantic import Field

from blocks.models import Frozen

Role = Literal["viewer", "operator", "approver"]
"""Look; start a procedure; approve a plan. Each includes the ones before it."""

EVERYONE = "*"


class Member(Frozen):
    """One person."""

    slack: str = Field(default="", pattern=r"^([UW][A-Z0-9]+)?$", description="Slack user id, U…")
    email: str = Field(default="", description="for notices by e-mail")


class Roles(Frozen):
    """Who has which role: names of members or groups, or * for everyone."""

    viewer: tuple[str, ...] = Field(default=(EVERYONE,), description="may ask for status and why")
    operator: tuple[str, ...] = Field(default=(), description="may start, freeze, acknowledge")
    approver: tuple[str, ...] = Field(default=(), description="may approve or reject plans")


class PeopleSpec(Frozen):
    """Members, groups, and their roles; a procedure may have roles of its own."""

    members: dict[str, Member] = Field(default={}, description="people by name")
    groups: dict[str, str] = Field(default={}, description="name -> Slack user group id, S…")
    roles: Roles = Field(default=Roles(), description="who may do what")
    procedures: dict[str, Roles] = Field(
        default={}, description="roles of one procedure, instead of the general ones"
    )
    channels: tuple[str, ...] = Field(
        default=(), description="Slack channel ids where commands are taken; none named: every one"
    )


class ApprovalSpec(Frozen):
    """How a plan is approved where a service's autonomy is `approve`."""

    timeout_s: int = Field(
        default=900, ge=0, le=86_400, description="a run waits so long for it; 0: it does not wait"
    )
    four_eyes: bool = Field(default=False, description="who asked for a run may not approve it")
