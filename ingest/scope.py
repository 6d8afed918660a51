"""What a key may sign: the scope in its ``key`` record."""

import re
from collections.abc import Mapping
from typing import Any

from core.errors import Rejected
from core.identifiers import canonical, class_of, parse
from core.message import Message, MessageEvent

_PLACES = ("readPoint", "bizLocation")


def check_scope(message: Message, scope: Mapping[str, Any]) -> None:
    """Return if every event of the message lies within the scope; an absent member does not limit.

    Args:
        scope: ``types``, ``steps`` (local names), ``products`` (GTIN ids), ``places`` (GLN or SGLN ids).

    Raises:
        Rejected: ``out_of_scope`` with the place of the first thing outside.
    """
    for number, event in enumerate(message.events):
        pointer = f"/events/{number}"
        _check_words(event, scope, pointer)
        _check_products(event, scope, pointer)
        _check_places(event, scope, pointer)


def _check_words(event: MessageEvent, scope: Mapping[str, Any], pointer: str) -> None:
    kind = event.event.get("type")
    if "types" in scope and kind not in scope["types"]:
        raise _outside(f"This key may not sign events of type {kind}.", f"{pointer}/type")
    step = local_name(str(event.event.get("bizStep", "")))
    if "steps" in scope and step not in scope["steps"]:
        raise _outside(f"This key may not sign the step {step or '(none)'}.", f"{pointer}/bizStep")


def _check_products(event: MessageEvent, scope: Mapping[str, Any], pointer: str) -> None:
    if "products" not in scope:
        return
    for item in event.items:
        # A quantity may name the product itself, without serial or lot.
        product = item.id if parse(item.id).kind == "gtin" else class_of(item.id)
        if product is not None and product not in scope["products"]:
            raise _outside(f"This key may not sign for the product {product}.", pointer)


def _check_places(event: MessageEvent, scope: Mapping[str, Any], pointer: str) -> None:
    if "places" not in scope:
        return
    for name in _PLACES:
        place = event.event.get(name)
        if place is None:
            continue
        found = canonical(str(place["id"] if isinstance(place, Mapping) else place))
        # A part of a place (GLN extension) lies in the place.
        if found not in scope["places"] and found.split("/254/")[0] not in scope["places"]:
            raise _outside(f"This key may not sign at {found}.", f"{pointer}/{name}")


def local_name(word: str) -> str:
    """The local name of a CBV business step in any of its spellings."""
    return re.split(r"[:/]", word)[-1].removeprefix("BizStep-")


def _outside(sentence: str, pointer: str) -> Rejected:
    return Rejected(sentence, code="out_of_scope", pointer=pointer)
