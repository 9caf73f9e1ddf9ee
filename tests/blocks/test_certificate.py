"""Certificates of real TLS servers and of files: read whoever signed them, never raised."""

import asyncio
import ssl
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from blocks.certificate import Certificate, endpoints_of, read_certificate
from blocks.stack import StackSpec
from tests.blocks.answering import answering
from tests.conftest import free_port

NOW = datetime.now(UTC).replace(microsecond=0)
KEY = ec.generate_private_key(ec.SECP256R1())
KEY_PEM = KEY.private_bytes(
    serialization.Encoding.PEM,
    serialization.PrivateFormat.PKCS8,
    serialization.NoEncryption(),
)


def made(name: str, days: float = 90, begin: float = -1, issuer: str = "") -> x509.Certificate:
    """A certificate whose life ends in `days` and began in `begin`."""
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)] if name else [])
    by = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, issuer)]) if issuer else subject
    names = x509.SubjectAlternativeName(
        [x509.DNSName("alt.local"), x509.IPAddress(ip_address("127.0.0.1"))]
    )
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(by)
        .public_key(KEY.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(NOW + timedelta(days=min(begin, days - 1)))
        .not_valid_after(NOW + timedelta(days=days))
        .add_extension(names, critical=False)
        .sign(KEY, hashes.SHA256())
    )


def pem(*certificates: x509.Certificate) -> bytes:
    return b"".join(c.public_bytes(serialization.Encoding.PEM) for c in certificates)


def context(folder: Path, *chain: x509.Certificate) -> ssl.SSLContext:
    path = folder / f"{chain[0].serial_number}.pem"
    path.write_bytes(KEY_PEM + pem(*chain))
    found = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    found.load_cert_chain(path)
    return found


@asynccontextmanager
async def speaking(words: bytes) -> AsyncIterator[int]:
    """Says something to everyone at once, and hangs up."""

    async def say(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(words)
        await reader.read(1)
        writer.close()

    server = await asyncio.start_server(say, "127.0.0.1", 0)
    yield server.sockets[0].getsockname()[1]
    server.close()
    await server.wait_closed()


def days_left(found: Certificate) -> float:
    assert found.problem == "" and found.not_after
    return (found.not_after - NOW) / timedelta(days=1)


async def test_a_self_signed_leaf(tmp_path: Path) -> None:
    tls = context(tmp_path, made("motoko.local", 12, issuer="Our CA"))
    async with answering(tls=tls) as server:
        found = await read_certificate(f"127.0.0.1:{server.port}")
        again = await read_certificate(f"https://127.0.0.1:{server.port}/v1")
    assert days_left(found) == 12 and found == again
    assert (found.subject, found.issuer, found.expires_first) == ("motoko.local", "Our CA", "")
    assert found.where == f"127.0.0.1:{server.port}"
    assert found.not_before == NOW - timedelta(days=1)


async def test_an_expired_one_and_one_of_the_future(tmp_path: Path) -> None:
    async with answering(tls=context(tmp_path, made("old", -3))) as server:
        assert days_left(await read_certificate(f"127.0.0.1:{server.port}")) == -3
    async with answering(tls=context(tmp_path, made("new", 90, begin=5))) as server:
        found = await read_certificate(f"127.0.0.1:{server.port}")
    assert found.not_before == NOW + timedelta(days=5)


async def test_the_name_is_asked_for_that_the_endpoint_has(tmp_path: Path) -> None:
    """SNI: one port, a certificate for each name."""
    default, other = context(tmp_path, made("default")), context(tmp_path, made("localhost"))
    asked: list[str | None] = []

    def choose(held: ssl.SSLObject, name: str | None, _: ssl.SSLContext) -> None:
        asked.append(name)
        held.context = other if name == "localhost" else default

    default.sni_callback = choose
    async with answering(tls=default) as server:
        assert (await read_certificate(f"LOCALHOST:{server.port}")).subject == "localhost"
        assert (await read_certificate(f"127.0.0.1:{server.port}")).subject == "default"
    assert asked == ["localhost", None]


async def test_ipv6(tmp_path: Path) -> None:
    async def hold(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    try:
        server = await asyncio.start_server(hold, "::1", 0, ssl=context(tmp_path, made("six")))
    except OSError:
        pytest.skip("no IPv6 here")
    port = server.sockets[0].getsockname()[1]
    found = await read_certificate(f"[::1]:{port}")
    server.close()
    assert found.subject == "six" and found.where == f"[::1]:{port}"


async def test_a_server_that_wants_our_certificate_shows_its_own(tmp_path: Path) -> None:
    tls = context(tmp_path, made("mutual"))
    tls.verify_mode = ssl.CERT_REQUIRED
    tls.load_verify_locations(cadata=pem(made("ca")).decode())
    async with answering(tls=tls) as server:
        assert (await read_certificate(f"127.0.0.1:{server.port}")).subject == "mutual"


async def test_an_old_tls_is_read(tmp_path: Path) -> None:
    tls = context(tmp_path, made("old"))
    tls.maximum_version = ssl.TLSVersion.TLSv1_2
    async with answering(tls=tls) as server:
        assert (await read_certificate(f"127.0.0.1:{server.port}")).subject == "old"


async def test_what_cannot_be_read_has_a_problem() -> None:
    refused = await read_certificate(f"127.0.0.1:{free_port()}")
    assert refused.problem == "connection refused" and refused.not_after is None
    async with speaking(b"HTTP/1.1 400 Bad Request\r\n\r\n") as port:
        assert (await read_certificate(f"127.0.0.1:{port}")).problem == "no TLS there"
    async with speaking(b"") as port:
        assert (await read_certificate(f"127.0.0.1:{port}")).problem
    assert (await read_certificate("no.such.invalid:443")).problem
    assert (await read_certificate("127.0.0.1:99999")).problem
    assert (await read_certificate("")).problem
    assert (await read_certificate("\0")).problem
    async with answering() as silent:  # it waits for a request that never ends
        began = time.monotonic()
        found = await read_certificate(f"127.0.0.1:{silent.port}", timeout_s=0.3)
        assert found.problem == "no answer within 0.3 s" and time.monotonic() - began < 30


async def test_the_earliest_expiry_of_a_chain_in_a_file(tmp_path: Path) -> None:
    path = tmp_path / "chain.pem"
    chain = made("leaf", 80, issuer="mid"), made("mid", 5, issuer="root"), made("root", 900)
    path.write_bytes(b"Bag Attributes\n" + KEY_PEM + pem(*chain))
    found = await read_certificate(str(path))
    assert days_left(found) == 5
    assert (found.subject, found.issuer, found.expires_first) == ("leaf", "mid", "mid")
    path.write_bytes(made("", 7).public_bytes(serialization.Encoding.DER))
    found = await read_certificate(str(path))
    assert days_left(found) == 7 and found.subject == "alt.local"


async def test_files_that_are_no_certificate(tmp_path: Path) -> None:
    assert "no such file" in (await read_certificate(str(tmp_path / "none.pem"))).problem
    assert "is a directory" in (await read_certificate(str(tmp_path))).problem
    path = tmp_path / "x.pem"
    for text, words in (
        (KEY_PEM, "it holds no certificate"),
        (b"", "no certificate that can be read"),
        (b"-----BEGIN CERTIFICATE-----\nrubbish\n-----END CERTIFICATE-----\n", "can be read"),
        (pem(made("cut"))[:-60], "can be read"),
        (b"x" * (5 << 20), "larger than 4 MiB"),
    ):
        path.write_bytes(text)
        found = await read_certificate(str(path))
        assert words in found.problem and found.not_after is None, found.problem


def test_every_endpoint_is_named_once() -> None:
    urls = ("https://Motoko:8443", "http://motoko:8000", "https://motoko", "https://[::1]/x")
    spec = StackSpec.model_validate(
        {
            "name": "s",
            "services": {
                f"s{n}": {
                    "engine": "http",
                    "url": url,
                    "runtime": {"kind": "docker", "container": f"c{n}"},
                }
                for n, url in enumerate(urls)
            },
            "prometheus": {"url": "https://motoko:8443/prom"},
            "alertmanager": {"url": "http://motoko:9093"},
            "certificates": ["MOTOKO:443", "/etc/ssl/motoko.pem", "db:5432", "https://db:5432"],
        }
    )
    assert endpoints_of(spec) == [
        "motoko:8443", "motoko:443", "[::1]:443", "/etc/ssl/motoko.pem", "db:5432"
    ]  # fmt: skip
