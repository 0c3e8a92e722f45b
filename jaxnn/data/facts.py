"""Facts kept as JSON, in files that somebody may have edited."""

import json
from typing import Any

BAD_FACTS = (KeyError, TypeError, ValueError, AttributeError, OverflowError)
"""What is raised by facts that are not as they were written."""


def parse_facts(where: object, text: str | bytes) -> dict[str, Any]:
    """A JSON object; raises ValueError where ``text`` is none."""
    try:
        facts = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{where}: expected JSON, got {error}") from None
    if not isinstance(facts, dict):
        raise ValueError(f"{where}: expected a JSON object, got {type(facts).__name__}")
    return facts
