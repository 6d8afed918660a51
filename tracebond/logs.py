"""Logs of every process: one line an occurrence, as text for people or JSON for machines, and no secret in any."""

import logging
import re
import sys
from collections.abc import Mapping, MutableMapping
from typing import Any, Final, Literal, TextIO

import structlog

Form = Literal["text", "json"]
HIDDEN: Final = "(hidden)"
_SECRET_NAMES: Final = re.compile(
    r"(?:^|_)(?:password|passphrase|secret|token|pin|authorization|cookie|api_?key|private_?key|chain_key)(?:$|_)"
)
# user:password@ of an address, a bearer credential, an API key of ours.
_CREDENTIALS: Final = (
    (re.compile(r"(\b[a-z][a-z0-9+.-]*://[^/\s:@]*):[^@\s/]+@"), r"\1:" + HIDDEN + "@"),
    (re.compile(r"(?i)\b(bearer|basic)\s+[A-Za-z0-9._~+/=-]{8,}"), r"\1 " + HIDDEN),
    (re.compile(r"\btb_[A-Za-z0-9_-]{16,}"), HIDDEN),
    (re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?-----END [A-Z ]*PRIVATE KEY-----", re.DOTALL), HIDDEN),
)


# Ids of messages: any text of base64url may look like a key, and there are hundreds in a line.
_IDS: Final = frozenset(("messages", "leaves", "refused"))


def configure(level: str, form: Form = "text", stream: TextIO | None = None) -> None:
    """Send the lines of this process from ``level`` up to ``stream`` (standard error by default).

    Libraries' lines take the same way, from warning up, so that a collector reads one form.
    """
    out = stream or sys.stderr
    number = logging.getLevelNamesMapping()[level.upper()]
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        without_secrets,
    ]
    renderer: Any = structlog.dev.ConsoleRenderer(colors=out.isatty())
    if form == "json":
        shared.append(structlog.processors.format_exc_info)
        renderer = structlog.processors.JSONRenderer(ensure_ascii=False)
    structlog.configure(
        processors=[*shared, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.PrintLoggerFactory(out),
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(out)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared, processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer]
        )
    )
    root = logging.getLogger()
    for old in list(root.handlers):
        if getattr(old, "is_ours", False):
            root.removeHandler(old)
    handler.is_ours = True  # type: ignore[attr-defined]
    root.addHandler(handler)
    root.setLevel(max(number, logging.WARNING))


def without_secrets(_logger: Any, _method: str, line: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """The line with the values of members named like secrets, and credentials inside texts, hidden."""
    for name, value in line.items():
        line[name] = _hidden(name, value)
    return line


def _hidden(name: str, value: Any) -> Any:
    if name in _IDS:
        return value
    if _SECRET_NAMES.search(name.lower()):
        return HIDDEN
    if isinstance(value, str):
        for form, instead in _CREDENTIALS:
            value = form.sub(instead, value)
        return value
    if isinstance(value, Mapping):
        return {key: _hidden(str(key), member) for key, member in value.items()}
    if isinstance(value, list | tuple):
        return [_hidden("", member) for member in value]
    return value
