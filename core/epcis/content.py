"""The digest of an event's whole content: equal for equal events alone, whatever the order of their members."""

from collections.abc import Mapping
from datetime import UTC
from decimal import Decimal
from typing import Any, Final

from core.canonical import dump_parsed, sha256
from core.epcis.checks import instant
from core.epcis.context import namespaces

# recordTime is the repository's own; eventID is compared by who asks; the context only explains other members' names.
_LEFT_OUT: Final = frozenset(("@context", "recordTime", "eventID"))
_TIMES: Final = frozenset(("eventTime", "declarationTime", "time", "startTime", "endTime"))


def content_digest(event: Mapping[str, Any], context: object = None) -> bytes:
    """SHA-256 over the event's members by name, numbers and times by value, extensions by their full names.

    Args:
        event: a valid event; ``context`` is the ``@context`` of the document around it.
    """
    spaces = None

    def name_of(name: str) -> str:
        nonlocal spaces
        if ":" not in name:
            return name
        if spaces is None:
            spaces = namespaces(context, event.get("@context"))
        return spaces.expand(name)

    def form(name: str, value: Any) -> Any:
        if isinstance(value, str):
            moment = instant(value) if name in _TIMES else None
            return value if moment is None else moment.astimezone(UTC).isoformat()
        if isinstance(value, Decimal):
            return ["number", _digits(value)]
        if isinstance(value, int) and not isinstance(value, bool):
            return ["number", str(value)]
        if isinstance(value, Mapping):
            return {name_of(key): form(key, member) for key, member in sorted(value.items()) if key != "@context"}
        if isinstance(value, list):
            return [form(name, member) for member in value]
        return value

    members = {name_of(name): form(name, value) for name, value in event.items() if name not in _LEFT_OUT}
    return sha256(dump_parsed(dict(sorted(members.items()))))


def _digits(number: Decimal) -> str:
    text = format(number, "f")
    text = text.rstrip("0").rstrip(".") if "." in text else text
    return "0" if text in ("", "-0") else text
