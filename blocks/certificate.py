"""When a certificate expires: of a TLS endpoint or a PEM file. Nothing is verified, only read."""

import asyncio
import re
import ssl
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from urllib.parse import urlsplit

from cryptography import x509
from cryptography.x509.oid import NameOID

from blocks.deadline import within
from blocks.http_words import why
from blocks.models import Frozen
from blocks.stack import StackSpec

_MOST_BYTES = 4 << 20
_ENDPOINT = re.compile(
    r"(?:\[(?P<v6>[0-9A-Fa-f:.%\w]+)\]|(?P<host>[^\[\]/\\:]+)):(?P<port>\d{1,5})"
)


class Certificate(Frozen):
    """What stands in one certificate, or in a chain of them."""

    where: str
    """The endpoint or the file, as it was asked for."""
    subject: str = ""
    """Of the leaf."""
    issuer: str = ""
    not_before: datetime | None = None
    """The latest of the chain (aware, UTC): it is valid once all of it is."""
    not_after: datetime | None = None
    """The earliest of the chain (aware, UTC)."""
    expires_first: str = ""
    """The subject that expires first, where that is not the leaf."""
    problem: str = ""
    """Why it could not be read; there are no dates then."""


def endpoints_of(spec: StackSpec) -> list[str]:
    """Every certificate to be looked at: those of https URLs and those the inventory names.

    Endpoints are `HOST:PORT`, `[ADDRESS]:PORT` for IPv6; each is named once, in the order of the
    inventory. The rest are paths.
    """
    urls = [service.url for service in spec.services.values()]
    urls += [one.url for one in (spec.prometheus, spec.alertmanager) if one]
    found = [_normal(url) for url in urls if url.lower().startswith("https:")]
    return list(dict.fromkeys([*found, *map(_normal, spec.certificates)]))


async def read_certificate(where: str, timeout_s: float = 5.0) -> Certificate:
    """Read one certificate; never raises for a dead host or a bad file: `problem` says why.

    Of an endpoint it is the leaf, whoever signed it and however old its TLS; of a file, all
    certificates in it. Keys in the file are not looked at.

    Args:
        where: `HOST:PORT`, `[ADDRESS]:PORT`, an https URL, or the path of a PEM or DER file.
        timeout_s: for all of it, seconds.
    """
    where = _normal(where)
    endpoint = _ENDPOINT.fullmatch(where)
    try:
        async with asyncio.timeout(timeout_s):
            if endpoint and int(endpoint["port"]) in range(1, 65_536):
                host = endpoint["v6"] or endpoint["host"]
                return _read([await _leaf(host, int(endpoint["port"]))], where)
            # A file may lie on a mount that hangs.
            return _read(await within(timeout_s, lambda: _of_file(where)), where)
    except TimeoutError:
        problem = f"no answer within {timeout_s:g} s"
    except ssl.SSLError as e:
        # Also a server that wants a certificate of ours before it shows the whole of its own.
        plain = e.reason in ("WRONG_VERSION_NUMBER", "HTTP_REQUEST", "UNEXPECTED_EOF_WHILE_READING")
        problem = "no TLS there" if plain else f"the TLS handshake failed ({e.reason or 'cut off'})"
    except ConnectionRefusedError:
        problem = "connection refused"
    except ConnectionError:
        problem = "the connection was cut off: no TLS there?"
    except OSError as e:
        problem = why(e) if endpoint else _file_problem(e)
    except (ValueError, x509.UnsupportedGeneralNameType) as e:
        problem = (
            str(e)[:200] if isinstance(e, _Unreadable) else "it is no certificate that can be read"
        )
    return Certificate(where=where, problem=problem)


class _Unreadable(ValueError):
    """With words for an operator."""


async def _leaf(host: str, port: int) -> x509.Certificate:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    # An old server's certificate expires as well.
    context.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
    context.set_ciphers("ALL:@SECLEVEL=0")
    # One time-out covers it all: `read_certificate`'s.
    _, writer = await asyncio.open_connection(
        host, port, ssl=context, server_hostname=host, ssl_handshake_timeout=3600
    )
    try:
        held: ssl.SSLObject = writer.get_extra_info("ssl_object")
        der = held.getpeercert(binary_form=True)
    finally:
        # Not `wait_closed`: a server need never answer the goodbye.
        writer.transport.abort()
    if not der:
        raise _Unreadable("the server shows no certificate")
    return x509.load_der_x509_certificate(der)


def _of_file(path: str) -> list[x509.Certificate]:
    with Path(path).expanduser().open("rb") as f:
        data = f.read(_MOST_BYTES + 1)
    if len(data) > _MOST_BYTES:
        raise _Unreadable(f"larger than {_MOST_BYTES >> 20} MiB: it is no certificate")
    if b"-----BEGIN CERTIFICATE-----" in data:
        return list(x509.load_pem_x509_certificates(data))
    if b"-----BEGIN " in data:
        raise _Unreadable("it holds no certificate, only something else; name the .crt or .pem")
    return [x509.load_der_x509_certificate(data)]


def _read(chain: Sequence[x509.Certificate], where: str) -> Certificate:
    leaf, first = chain[0], min(chain, key=lambda one: one.not_valid_after_utc)
    return Certificate(
        where=where,
        subject=_name(leaf.subject) or _alternative(leaf),
        issuer=_name(leaf.issuer),
        not_before=max(one.not_valid_before_utc for one in chain),
        not_after=first.not_valid_after_utc,
        expires_first="" if first is leaf else _name(first.subject),
    )


def _name(name: x509.Name) -> str:
    common = name.get_attributes_for_oid(NameOID.COMMON_NAME)
    return str(common[0].value)[:100] if common else name.rfc4514_string()[:100]


def _alternative(certificate: x509.Certificate) -> str:
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (x509.ExtensionNotFound, ValueError):
        return ""
    return next((str(one.value)[:100] for one in names), "")


def _normal(where: str) -> str:
    """`HOST:PORT` of an https URL; what is none is left as it is, but for the host's case."""
    if where.lower().startswith("https://"):
        parts = urlsplit(where)
        host = parts.hostname or ""
        return f"{f'[{host}]' if ':' in host else host}:{parts.port or 443}"
    return where.lower() if _ENDPOINT.fullmatch(where) else where


def _file_problem(error: OSError) -> str:
    cause = (error.strerror or type(error).__name__).lower()
    return f"the file cannot be read: {cause}; give its path on the worker's host, or HOST:PORT"
