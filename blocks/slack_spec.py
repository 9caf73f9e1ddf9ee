"""The slack section of a stack."""

from pydantic import Field

from blocks.models import Frozen
from blocks.secret_ref import SecretRef


class SlackSpec(Frozen):
    """Where messages go, and how Slack reaches the gateway."""

    token: SecretRef = Field(description="reference to the bot token (scope chat:write)")
    channel: str = Field(min_length=1, description="channel id or name, e.g. #llm-platform-alerts")
    app_token: SecretRef | None = Field(
        default=None,
        description="reference to the app-level token (xapp-…, scope connections:write): commands "
        "and buttons come by Socket Mode, no public address is needed",
    )
    signing_secret: SecretRef | None = Field(
        default=None,
        description="reference to the app's signing secret: commands and buttons come by HTTP",
    )
    api_url: str = Field(
        default="https://slack.com/api/",
        pattern=r"^https?://",
        description="another address than Slack's own, for a proxy or a test",
    )
    timeout_s: int = Field(default=10, gt=0, le=60, description="of one message, seconds")
