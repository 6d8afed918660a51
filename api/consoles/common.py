"""What the consoles share: a page for people and the same facts as JSON for programs."""

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from decimal import Decimal
from enum import Enum
from typing import Any

from fastapi import Request
from fastapi.responses import RedirectResponse, Response

from api import pages
from api.errors import wants_html
from api.forms import is_form
from api.items import json_response
from core.canonical import b64u


def show(request: Request, template: str, values: Mapping[str, Any]) -> Response:
    """The page, or its values as JSON where the reader is a program."""
    if wants_html(request):
        return pages.page(request, template, values)
    return json_response({name: plain(value) for name, value in values.items()})


def done(request: Request, target: str, result: Mapping[str, Any]) -> Response:
    """After a command: a form goes on to a page, a program gets the result."""
    if is_form(request):
        return RedirectResponse(target, status_code=303)
    return json_response(plain(result))


def plain(value: Any) -> Any:
    """A value as JSON knows it: dataclasses as objects, bytes as base64url, decimals with their digits."""
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Mapping):
        return {str(name): plain(member) for name, member in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(member) for member in value]
    if isinstance(value, bytes):
        return b64u(value)
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, float):
        return Decimal(str(value))
    return value if value is None or isinstance(value, bool | int | str | Decimal) else str(value)
