"""Request bodies into frozen models: strict JSON or a URL-encoded form, one model for both."""

from typing import Any, Final, TypeVar
from urllib.parse import parse_qsl

from fastapi import Request
from pydantic import BaseModel, ConfigDict, ValidationError

from api.auth.sessions import CSRF_FIELD
from api.limits import BODY_BYTES_MAX
from core.canonical import parse_json
from core.errors import Rejected

FIELDS_MAX: Final = 200


class Input(BaseModel):
    """Base of every body: strict types, and a field that no model names is an error (T16)."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


In = TypeVar("In", bound=BaseModel)


async def read_json(request: Request) -> Any:
    """The strict JSON value of a body.

    Raises:
        Rejected: ``unsupported_media_type``, or what ``core.canonical.parse_json`` raises.
    """
    kind = media_type(request)
    if kind != "application/json" and not kind.endswith("+json"):
        raise Rejected("Send application/json.", code="unsupported_media_type")
    return parse_json(await request.body(), bytes_max=BODY_BYTES_MAX)


async def read_input(request: Request, model: type[In]) -> In:
    """The body as the model, from JSON or from a form.

    Raises:
        Rejected: ``invalid_field`` with the field's place, or what the parsers raise.
    """
    value = read_form(await request.body()) if is_form(request) else await read_json(request)
    try:
        return model.model_validate(value)
    except ValidationError as error:
        fault = error.errors(include_url=False, include_input=False)[0]
        pointer = "".join(f"/{part}" for part in fault["loc"])
        raise Rejected(str(fault["msg"]), code="invalid_field", pointer=pointer) from error


def read_form(body: bytes) -> dict[str, str]:
    """The fields of a URL-encoded form, without the CSRF token and without empty fields.

    Raises:
        Rejected: ``bad_form``: not UTF-8, too many fields, or a field given twice.
    """
    try:
        pairs = parse_qsl(body.decode("utf-8"), keep_blank_values=True, errors="strict", max_num_fields=FIELDS_MAX)
    except ValueError as error:
        raise Rejected("The form cannot be read.", code="bad_form") from error
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise Rejected("A field stands twice in the form.", code="bad_form")
    fields.pop(CSRF_FIELD, None)
    return {name: value.strip() for name, value in fields.items() if value.strip()}


def is_form(request: Request) -> bool:
    """Whether the body is a form of a page."""
    return media_type(request) == "application/x-www-form-urlencoded"


def media_type(request: Request) -> str:
    """The media type of the body without its parameters, lower case."""
    return request.headers.get("content-type", "").split(";")[0].strip().lower()
