"""Bytes of a file as text. Pure."""

from blocks.errors import Permanent

BOM = "\ufeff"


def decoded(path: str, data: bytes) -> str:
    """The text of a file, without a byte order mark.

    Raises:
        Permanent: not UTF-8.
    """
    try:
        return data.decode("utf-8").removeprefix(BOM)
    except UnicodeDecodeError as e:
        raise Permanent(f"{path} is not UTF-8 (byte {e.start}); save it as UTF-8") from None
