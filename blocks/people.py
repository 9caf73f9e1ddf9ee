"""Who works on a platform, and who may start and approve what."""

from typing import Literal

from pydantic import Field, model_validator

from blocks.models import Frozen

Role = Literal["viewer", "operator", "approver"]
"""Look; start a procedure; approve a plan. Each includes the ones before it."""

EVERYONE = "*"


class Member(Frozen):
    """One person."""

    shell: tuple[str, ...] = Field(
        default=(), description="login names on the machines where `runbooks` is called"
    )
    slack: str = Field(default="", pattern=r"^([UW][A-Z0-9]+)?$", description="Slack user id, U…")
    email: str = Field(default="", description="for notices by e-mail")


class Roles(Frozen):
    """Who has which role: names of members or groups, or * for everyone."""

    viewer: tuple[str, ...] = Field(default=(EVERYONE,), description="may ask for status and why")
    operator: tuple[str, ...] = Field(default=(), description="may start, freeze, acknowledge")
    approver: tuple[str, ...] = Field(default=(), description="may approve or reject plans")


class ProcedureRoles(Frozen):
    """Roles of one procedure; what is left out is as for every other."""

    viewer: tuple[str, ...] | None = Field(default=None, description="instead of the general ones")
    operator: tuple[str, ...] | None = Field(default=None, description="likewise")
    approver: tuple[str, ...] | None = Field(default=None, description="likewise")


class PeopleSpec(Frozen):
    """Members, groups, and their roles; a procedure may have roles of its own."""

    members: dict[str, Member] = Field(default={}, description="people by name")
    groups: dict[str, str] = Field(default={}, description="name -> Slack user group id, S…")
    roles: Roles = Field(default=Roles(), description="who may do what")
    procedures: dict[str, ProcedureRoles] = Field(
        default={}, description="roles of single procedures, by name"
    )
    channels: tuple[str, ...] = Field(
        default=(), description="Slack channel ids where commands are taken; none named: every one"
    )

    @model_validator(mode="after")
    def _known(self) -> "PeopleSpec":
        if both := sorted(set(self.members) & set(self.groups)):
            raise ValueError(f"{both[0]!r} is a member and a group; rename one of them")
        known = {*self.members, *self.groups, EVERYONE}
        given: list[tuple[str, Roles | ProcedureRoles]] = [("roles", self.roles)]
        given += [(f"procedures.{name}", roles) for name, roles in self.procedures.items()]
        for where, roles in given:
            for role in ("viewer", "operator", "approver"):
                for name in getattr(roles, role) or ():
                    if name not in known:
                        raise ValueError(
                            f"{where}.{role}: {name!r} is neither under members nor under groups"
                            f" (known: {', '.join(sorted(known))})"
                        )
        return self


class ApprovalSpec(Frozen):
    """How a plan is approved where a service's autonomy is `approve`."""

    timeout_s: int = Field(
        default=900, ge=0, le=86_400, description="a run waits so long for it; 0: it does not wait"
    )
    four_eyes: bool = Field(default=False, description="who asked for a run may not approve it")
