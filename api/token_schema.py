"""How OpenAPI describes tokens and payments by them."""

from typing import Any, Final

_TEXT: Final[dict[str, Any]] = {"type": "string"}
_WHOLE: Final[dict[str, Any]] = {"type": "integer"}
_YUAN: Final[dict[str, Any]] = {"type": "string", "pattern": r"^\d+\.\d{2}$"}


def _object(**members: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "properties": members}


TOKEN: Final[dict[str, Any]] = _object(
    token=_TEXT, account=_TEXT, partner=_TEXT,
    purpose={"type": "string", "enum": ["DISBURSE", "REPAY", "FEE", "MARGIN"]},
    merchants={"type": "array", "items": _TEXT}, per_payment=_YUAN, per_day=_YUAN, total=_YUAN, payments=_WHOLE,
    window=_TEXT, valid_from=_WHOLE, valid_until=_WHOLE,
    state={"type": "string", "enum": ["ACTIVE", "SUSPENDED", "REVOKED", "EXPIRED", "EXHAUSTED"]}, version=_WHOLE,
    spent_today=_YUAN, spent_total=_YUAN, paid=_WHOLE, left_today=_YUAN, left_total=_YUAN, created=_WHOLE,
) | {"required": ["token", "state", "version", "purpose", "left_today", "left_total"]}  # fmt: skip
TOKEN_LIST: Final[dict[str, Any]] = _object(tokens={"type": "array", "items": TOKEN}, next=_TEXT) | {
    "required": ["tokens"]
}
SPEND: Final[dict[str, Any]] = _object(
    spend=_TEXT, token=_TEXT, state={"type": "string", "enum": ["AUTHORISED", "REVERSED"]}, amount=_YUAN,
) | {"required": ["spend", "token", "state", "amount"]}  # fmt: skip
