"""The README's pictures, taken by `RUNBOOKS_SCREENSHOT=1 pytest tests/real/test_ui.py`."""

import io
import re
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.terminal_theme import MONOKAI
from rich.text import Text

IMAGES = Path(__file__).with_name("images")
_CURSOR = re.compile(r"\x1b\[[0-9;?]*[A-HJKSTfhl]")
_SPINS = re.compile("[\u2800-\u28ff]")
LIMIT = 400_000
"""Bytes a picture may have: a README is read on slow lines, too."""


def record_page(browser: Any, url: str, file: Path) -> Path:
    """The record of a run as the UI shows it, without the rail of links on the left."""
    browser.resize(1440, 1100)
    browser.open(url, "Change: kept", "Cause:")
    browser.wait(
        "the chart",
        lambda: browser.run("document.querySelector('main img, img[alt^=what]')?.naturalWidth"),
    )
    left = _edge(browser, "h1", "left") - 16
    bottom = _edge(browser, "pre", "bottom") + 16
    browser.picture(file, (left, 0, 1440 - left, min(bottom, 1300)))
    return _small(file)


def report_page(browser: Any, url: str, file: Path) -> Path:
    """The daily check as the UI shows it."""
    browser.resize(1440, 1100)
    browser.open(url, "do this")
    left = _edge(browser, "h1", "left") - 16
    bottom = _edge(browser, "table", "bottom") + 48
    browser.picture(file, (left, 0, 1440 - left, min(bottom, 1100)))
    return _small(file)


def terminal(browser: Any, ansi: str, file: Path) -> Path:
    """A terminal's output, escape codes and all, as a picture."""
    kept = [line for line in _CURSOR.sub("", ansi).rstrip().splitlines() if not _SPINS.search(line)]
    svg, page = file.with_suffix(".svg"), file.with_suffix(".html")
    svg.parent.mkdir(parents=True, exist_ok=True)
    console = Console(record=True, width=90, force_terminal=True, file=io.StringIO())
    console.print(Text.from_ansi("\n".join(kept)))
    console.save_svg(str(svg), title="make demo", theme=MONOKAI)
    # Its web font is not to be had offline; any monospaced one is as good.
    drawn = re.sub(r"@font-face \{.*?\}\s*", "", svg.read_text(), flags=re.DOTALL)
    drawn = drawn.replace("Fira Code", "DejaVu Sans Mono")
    svg.unlink()
    page.write_text(f"<meta charset=utf-8><body style='margin:0'>{drawn}</body>")
    browser.resize(1120, 1400)
    browser.open(page.as_uri())
    browser.wait("the drawing", lambda: browser.run("!!document.querySelector('svg')"))
    shape = "(b => [b.width, b.height])(document.querySelector('svg').getBoundingClientRect())"
    browser.picture(file, (0, 0, *browser.run(shape)))
    page.unlink()
    return _small(file)


def _edge(browser: Any, what: str, side: str) -> float:
    """Where an element ends, px; the page is drawn more than once, so it is waited for."""
    asked = f"document.querySelector('{what}')?.getBoundingClientRect().{side} ?? 0"
    found: float = browser.wait(what, lambda: browser.run(asked))
    return found


def _small(file: Path) -> Path:
    size = file.stat().st_size
    if size >= LIMIT:
        raise ValueError(f"{file.name} has {size} bytes")
    return file
