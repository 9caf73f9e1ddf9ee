"""What happens in a scenario, step by step, and what must come of it, beside the verdict."""

from typing import Any, Literal, Self

from pydantic import Field, model_validator

from blocks.models import Frozen

Person = Literal["ada", "bob", "dora", "eve"]
SLACK_IDS: dict[Person, str] = {"ada": "U1", "bob": "U2", "eve": "U3", "dora": "U4"}
"""ada is an operator, bob and dora are approvers, eve is nobody."""
CHANNELS = {"incidents": "C1", "general": "C2"}
"""Commands are taken in the first one only."""


class AlertStep(Frozen):
    """Alertmanager posts to the gateway."""

    name: str = Field(default="ServiceDown", description="alertname; the routes know two of them")
    status: Literal["firing", "resolved"] = "firing"
    labels: dict[str, str] = Field(default={}, description="further ones, or others")
    count: int = Field(default=1, ge=1, le=2000, description="alerts")
    distinct: bool = Field(default=False, description="they differ; else one is sent `count` times")


class CommandStep(Frozen):
    """Somebody types a slash command."""

    text: str = Field(description="what is typed after /runbook")
    user: Person = "ada"
    channel: Literal["incidents", "general"] = "incidents"


class ClickStep(Frozen):
    """Somebody taps a button of the newest message that has it; several people at once."""

    button: Literal["approve", "reject", "ack", "show-log"] = Field(description="action_id")
    user: Person | tuple[Person, ...] = Field(default="bob", description="one or several people")


Wait = Literal["approval", "ended"]


class Step(Frozen):
    """One of these."""

    alert: AlertStep | None = Field(default=None, description="[Alertmanager posts](#alert)")
    command: CommandStep | None = Field(default=None, description="[a slash command](#command)")
    click: ClickStep | None = Field(default=None, description="[a button](#click)")
    edit: dict[str, Any] = Field(default={}, description="numbers that somebody writes by hand")
    kill: Literal["gateway", "server"] | None = Field(
        default=None, description="kill -9 of the gateway, or of the Prefect server"
    )
    hold: Literal["server"] | None = Field(
        default=None, description="the Prefect server does not answer, until `release` or its kill"
    )
    release: Literal["server"] | None = Field(default=None, description="it answers again")
    slack: Literal["down", "up"] | None = Field(
        default=None, description="Slack refuses connections"
    )
    wait: Wait | None = Field(
        default=None, description="for a plan that waits for somebody; for the end of everything"
    )

    @model_validator(mode="after")
    def _one(self) -> Self:
        named = [name for name in type(self).model_fields if getattr(self, name)]
        if len(named) != 1:
            raise ValueError(f"a step is one thing; this one is {', '.join(named) or 'nothing'}")
        return self


class Came(Frozen):
    """What must come of the steps. All of it is compared, the defaults too."""

    runs: int = Field(default=0, description="runs that were started")
    alerts: dict[str, int] = Field(
        default={}, description="what became of the alerts: outcome -> count"
    )
    duplicates: int = Field(default=0, description="alerts that had been sent before")
    incident: Literal["none", "open", "ended"] = "none"
    cards: int = Field(default=0, description="messages in the channel, without their threads")
    told: tuple[str, ...] = Field(default=(), description="words that stand in the channel now")
    answered: dict[Person, tuple[str, ...]] = Field(
        default={}, description="words of private answers; who is not named got none"
    )
    refused: int = Field(default=0, description="requests that the audit trail says were refused")
    approver: tuple[Person, ...] = Field(
        default=(), description="who approved from Slack: one of them; none named: nobody did"
    )
    notes: tuple[str, ...] = Field(default=(), description="words that the record's notes contain")
