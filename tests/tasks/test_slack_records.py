"""The tasks that tell Slack: a card that is updated in place, and a file in its thread."""

from uuid import uuid4

import pytest

from blocks.errors import Transient
from blocks.slack_blocks import section
from blocks.slack_spec import SlackSpec
from deployments.sandbox.slack_server import SlackServer
from tasks.records import publish_card, publish_file

pytestmark = [
    pytest.mark.usefixtures("prefect_server"),
    pytest.mark.filterwarnings("ignore:Logger 'prefect.task_runs':UserWarning"),  # no flow here
]


async def test_a_card_and_a_file_in_its_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    async with SlackServer() as slack:
        for name, value in slack.env.items():
            monkeypatch.setenv(name, value)
        spec, key = SlackSpec.model_validate(slack.spec(timeout_s=5)), uuid4().hex
        ref = await publish_card(spec, key, [section("one")], "one")
        assert await publish_card(spec, key, [section("two")], "two", "C2") == ref
        await publish_file(spec, ref, "report.md", b"# what happened", "Report")
        (message,), (file,) = slack.messages(), slack.files
        assert (message.text, message.ts, message.channel) == ("two", ref.ts, "C1")
        assert (file.thread_ts, file.content, file.title) == (ref.ts, b"# what happened", "Report")
        await slack.stop()
        with pytest.raises(Transient):
            await publish_card.with_options(retries=0)(spec, key, [section("three")], "three")
