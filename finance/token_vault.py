"""The vault of account numbers: linked once, sealed, and named everywhere else by a random reference."""

import hmac
import re
from typing import Any, Final

import sqlalchemy as sa
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from core.canonical import b64u
from core.errors import Broken, Rejected
from core.identifiers import canonical
from finance.commandlog import command, insert_ignore
from finance.inputs import borrower_file
from finance.model import BANK, Actor, Call, Context
from finance.token_tables import account_vault
from ledger.database import Tx

REF_BYTES: Final = 16
NONCE_BYTES: Final = 12
SEED_BYTES: Final = REF_BYTES + NONCE_BYTES
_NUMBER: Final = re.compile(r"[0-9A-Z]{8,34}")


def link_account(
    tx: Tx, ctx: Context, actor: Actor, *, borrower: str, number: str, seed: bytes, key: str, reason: str, now: int
) -> dict[str, Any]:
    """A bank links an account that a borrower of its own holds there; linked again, it keeps its reference.

    The number goes into the vault alone: neither the command log nor an answer holds it.

    Args:
        seed: 28 fresh random bytes.

    Raises:
        Rejected: ``not_allowed``, ``unknown_borrower``, ``no_account``, ``bad_account``.
    """
    actor.need(*BANK)
    digits = number.replace(" ", "")
    if _NUMBER.fullmatch(digits) is None:
        raise Rejected("An account number has 8 to 34 digits or capital letters.", code="bad_account", pointer="number")
    if len(seed) != SEED_BYTES:
        raise Broken(f"A link needs {SEED_BYTES} random bytes.", code="bad_token")
    owner = canonical(borrower)
    fingerprint = _key(ctx.k, "account", f"{actor.org}\n{owner}\n{digits}".encode())

    def act(call: Call) -> dict[str, Any]:
        if not borrower_file(tx, actor.org, owner).has_account:
            raise Rejected("This borrower holds no account at the bank.", code="no_account", pointer="borrower")
        ref, nonce = b64u(seed[:REF_BYTES]), seed[REF_BYTES:]
        sealed = nonce + _cipher(ctx).encrypt(nonce, digits.encode(), ref.encode())
        insert_ignore(tx, account_vault, {
            "id": ref, "bank": actor.org, "owner": owner, "fingerprint": fingerprint, "sealed": sealed,
            "hint": digits[-4:], "created_s": now,
        })  # fmt: skip
        own = (account_vault.c.bank == actor.org) & (account_vault.c.owner == owner)
        row = tx.execute(sa.select(account_vault).where(own, account_vault.c.fingerprint == fingerprint)).one()
        return {"account": row.id, "owner": owner, "hint": row.hint}

    body = {"borrower": borrower, "account": b64u(fingerprint)}
    return command(tx, ctx, name="link_account", actor=actor, key=key, reason=reason, now=now, body=body, act=act)


def account_number(tx: Tx, ctx: Context, account: str) -> str:
    """The number behind a reference, for the bank's own payment system and nobody else.

    Raises:
        Rejected: ``no_such_account``. Broken: ``bad_vault`` when the row was changed, or K is another.
    """
    row = tx.execute(sa.select(account_vault).where(account_vault.c.id == account)).one_or_none()
    if row is None:
        raise Rejected("There is no such account.", code="no_such_account", pointer="account")
    sealed = bytes(row.sealed)
    try:
        return _cipher(ctx).decrypt(sealed[:NONCE_BYTES], sealed[NONCE_BYTES:], account.encode()).decode()
    except InvalidTag as error:
        raise Broken("An account in the vault cannot be opened.", code="bad_vault") from error


def _cipher(ctx: Context) -> AESGCM:
    return AESGCM(_key(ctx.k, "vault", b""))


def _key(k: bytes, use: str, data: bytes) -> bytes:
    return hmac.digest(k, f"tracebond/{use}/1\0".encode() + data, "sha256")
