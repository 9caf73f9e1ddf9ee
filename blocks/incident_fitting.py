"""An incident's facts as Prefect takes them: what is too long is cut, and nothing raises."""

import json
from typing import Any

from blocks.models import Frozen

LONGEST = 5000
"""Characters of a Variable's value (Prefect), counted as ASCII JSON, which is never shorter."""
TITLE = 300
KEPT = frozenset({"id", "stack", "service", "severity", "source", "at", "run_id", "how"})
"""Fields that are never cut: without them a fact says nothing."""
SHORT = 20
"""A text of so few characters is not cut."""


def cut_title(value: Any) -> Any:
    """A title that has room; what is no text is left to the model."""
    return f"{value[: TITLE - 1]}…" if isinstance(value, str) and len(value) > TITLE else value


def fitting(fact: Frozen) -> dict[str, Any]:
    """The values of a fact; its longest texts are halved until it fits, names and times never."""
    value: dict[str, Any] = fact.model_dump(mode="json")
    while len(json.dumps(value)) > LONGEST:
        parts = [value, *(v for v in value.values() if isinstance(v, dict))]
        texts = [
            (len(json.dumps(text)), number, key)
            for number, part in enumerate(parts)
            for key, text in part.items()
            if isinstance(text, str) and len(text) > SHORT and not (number == 0 and key in KEPT)
        ]
        if not texts:  # many short ones: none of them is needed
            return {k: {} if isinstance(v, dict) else v for k, v in value.items()}
        _, number, key = max(texts)
        text = parts[number][key]
        parts[number][key] = f"{text[: len(text) // 2]}…"
    return value
