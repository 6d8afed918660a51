"""The pledge register: searched before each pledge, filed after it; and a statement that anyone can repeat.

A statement says of goods that no pledge rests on them as of one block, with each call of the contract and what it
returned. Whoever has a node of the chain repeats the calls at that block; whoever has none checks the signature.
"""

from collections.abc import Sequence
from typing import Any, Final

from core.canonical import b64u, canonical_bytes, sha256
from core.errors import Rejected, Unavailable
from core.identifiers import parse
from finance.model import AlreadyPledged, Context
from ledger.chain_book import current_deployment
from ledger.database import Tx

KEYS_MAX: Final = 200
_LIVE: Final = ("active", "enforcing")


def search(ctx: Context, receipt: bytes) -> tuple[dict[str, Any], bytes]:
    """What the contract says of a receipt at the last final block, and the hash of that answer; kept with a pledge.

    Raises:
        AlreadyPledged: it is pledged there. Unavailable: the chain gives no final block.
    """
    block = _final(ctx)
    shown = ctx.registry.pledge_of(receipt, block=block["number"])
    if shown.state in _LIVE:
        raise AlreadyPledged()
    answer = {
        "chain_id": ctx.registry.chain.chain_id, "contract": ctx.registry.address, "block": block,
        "receipt": b64u(receipt), "pledge": shown.state, "earlier": shown.count,
    }  # fmt: skip
    return answer, sha256(canonical_bytes(answer))


def filing(pledge: Any, *, block: int | None, registered_s: int) -> tuple[str, bytes]:
    """The registry's number for a pledge that is final, and the hash of the filed record; its rank is always 1."""
    record = {
        "pledge": pledge.id, "lender": pledge.lender, "receipt": b64u(bytes(pledge.receipt)),
        "terms": b64u(bytes(pledge.terms_hash)), "block": block, "registered_s": registered_s, "rank": 1,
    }  # fmt: skip
    digest = sha256(canonical_bytes(record))
    return f"TB-{registered_s}-{digest.hex()[:12].upper()}", digest


def statement(tx: Tx, ctx: Context, item: str, *, now: int) -> dict[str, Any]:
    """A signed statement about goods and what is packed in them, as of the last final block.

    Where a pledge stands, the statement says so and shows no calls: they would name the lender.

    Raises:
        Rejected: ``bad_identifier``, ``not_pledgeable``, ``too_large``. Unavailable: the chain gives no final block.
    """
    identifier = parse(item)
    if identifier.kind in ("lgtin", "gtin"):
        raise Rejected("A statement is about single things and containers.", code="not_pledgeable", pointer="code")
    units = sorted({identifier.canonical, *ctx.contents(tx, identifier.canonical)})
    if len(units) > KEYS_MAX:
        raise Rejected(f"A statement is about at most {KEYS_MAX} things.", code="too_large", pointer="code")
    block = _final(ctx)
    calls, receipts = _holders(ctx, units, block["number"])
    is_pledged = False
    for receipt in receipts:
        data = ctx.registry.calldata("pledge_of", receipt)
        calls.append(_called(ctx, data, block["number"]) | {"asks": "pledge_of", "receipt": b64u(receipt)})
        is_pledged = is_pledged or ctx.registry.pledge_of(receipt, block=block["number"]).state in _LIVE
    body = {
        "statement": "tracebond/not-pledged/1", "item": identifier.canonical, "things": len(units),
        "is_pledged": is_pledged, "chain_id": ctx.registry.chain.chain_id,
        "genesis": ctx.registry.chain.genesis_hash, "contract": ctx.registry.address, "block": block,
        "calls": [] if is_pledged else calls, "made_s": now,
    }  # fmt: skip
    account = current_deployment(tx)[1].publisher_account
    signature = ctx.signer.sign_digest(account, sha256(canonical_bytes(body)))
    return body | {"signer": ctx.signer.address(account), "signature": "0x" + signature.hex()}


def _holders(ctx: Context, units: Sequence[str], block: int) -> tuple[list[dict[str, Any]], list[bytes]]:
    calls, found = [], set()
    for unit in units:
        goods_key = ctx.goods_key(unit)
        data = ctx.registry.calldata("holder", goods_key)
        calls.append(_called(ctx, data, block) | {"asks": "holder", "item": unit})
        receipt = ctx.registry.holder(goods_key, block=block)
        if receipt is not None:
            found.add(receipt)
    return calls, sorted(found)


def _called(ctx: Context, data: bytes, block: int) -> dict[str, Any]:
    """An ``eth_call`` as anyone repeats it: to, data and block, with the result that must come back."""
    result = ctx.registry.chain.call(ctx.registry.address, data, block)
    return {"to": ctx.registry.address, "data": "0x" + data.hex(), "result": "0x" + result.hex()}


def _final(ctx: Context) -> dict[str, Any]:
    number = ctx.registry.chain.final_block_number()
    head = ctx.registry.chain.block(number)
    if head is None:
        raise Unavailable("The chain gives no final block.", code="chain_away")
    return {"number": head.number, "hash": head.hash, "time_s": head.time_s}
