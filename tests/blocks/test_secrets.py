"""References to secrets: resolved late, never repeated."""

import pytest
from pydantic import TypeAdapter, ValidationError

from blocks.errors import Permanent
from blocks.secret_ref import SecretRef, resolve
from tests.conftest import PrefectServer

ADAPTER = TypeAdapter(SecretRef)


@pytest.mark.parametrize("good", ["${A}", "${_a_1}", "secret:x", "secret:a-b-1"])
def test_a_reference_is_taken_as_it_is(good: str) -> None:
    assert ADAPTER.validate_python(good) == good


@pytest.mark.parametrize(
    "bad",
    [
        "",
        "sk-1",
        "$A",
        "${A",
        "${1A}",
        "${A}x",
        "x${A}",
        "secret:",
        "secret:A",
        "SECRET:x",
        "${A}\n",
    ],
)
def test_anything_else_is_refused_and_not_repeated(bad: str) -> None:
    with pytest.raises(ValidationError) as e:
        ADAPTER.validate_python(bad)
    message = e.value.errors()[0]["msg"]
    assert "must be a reference" in message and (bad in ("", "secret:") or bad not in message)


async def test_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RB_KEY", "  value\n")
    found = await resolve("${RB_KEY}")
    assert found.get_secret_value() == "value" and "value" not in repr(found)
    for empty in ("", "  \n"):
        monkeypatch.setenv("RB_KEY", empty)
        with pytest.raises(Permanent, match="RB_KEY is not set for the worker"):
            await resolve("${RB_KEY}")
    for odd in ("a\nb", "clé", "a\x7fb"):
        monkeypatch.setenv("RB_KEY", odd)
        with pytest.raises(Permanent, match="RB_KEY holds characters no key has") as e:
            await resolve("${RB_KEY}")
        assert odd not in str(e.value)


async def test_what_is_no_reference_is_not_looked_up() -> None:
    with pytest.raises(Permanent, match="must be given as") as e:
        await resolve("sk-hunter2")
    assert "hunter2" not in str(e.value)


async def test_a_prefect_secret(prefect_server: PrefectServer) -> None:
    from prefect.blocks.system import Secret

    await Secret(value="from-the-block").save("rb-test", overwrite=True)  # type: ignore[misc,call-arg]
    assert (await resolve("secret:rb-test")).get_secret_value() == "from-the-block"
    await Secret(value="").save("rb-test", overwrite=True)  # type: ignore[misc,call-arg]
    with pytest.raises(Permanent, match="Prefect Secret 'rb-test' is empty"):
        await resolve("secret:rb-test")
    with pytest.raises(Permanent, match="Prefect Secret 'rb-none' does not exist; create it"):
        await resolve("secret:rb-none")
