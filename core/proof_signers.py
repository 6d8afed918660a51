"""Who may sign the records of a proof bundle: its ``org`` records against the contract, and records against those."""

from collections.abc import Mapping, Sequence

from core.bundle import Bundle
from core.canonical import unb64u
from core.crypto import P256Public, thumbprint
from core.errors import Rejected
from core.records import BY_OPERATOR, ROLES, Record


def check_organisations(bundle: Bundle, records: Mapping[int, Record], answers: Sequence[bytes]) -> dict[int, int]:
    """Hold each ``org`` record of the bundle's registry against the contract's answer, one of another against those.

    After the contracts were deployed anew, the log holds an organisation's record of the old registry and a later one
    of the new registry. Only the later one can be asked for; the earlier counts when the two say the same.

    Args:
        records: index and record of the bundle's entries. answers: of the questions about organisations, in order.

    Returns:
        For each record of another registry its index, with the index of the later record that confirms it.

    Raises:
        Rejected: ``bad_answer``, ``wrong_organisation``.
    """
    found = [(index, record) for index, record in sorted(records.items()) if record.t == "org"]
    here = [(index, record) for index, record in found if is_here(bundle, record)]
    if len(here) != len(answers):
        raise Rejected("The chain's answers do not have the expected form.", code="bad_answer")
    for (_, record), answer in zip(here, answers, strict=True):
        _check_answer(bundle, record, answer)
    confirmed: dict[int, int] = {}
    for index, record in found:
        if not is_here(bundle, record):
            later = [at for at, other in here if at > index and _says_the_same(record, other)]
            if not later:
                raise Rejected("An org record is of another registry and not confirmed.", code="wrong_organisation")
            confirmed[index] = later[0]
    return confirmed


def is_here(bundle: Bundle, record: Record) -> bool:
    """Whether an ``org`` record is of the bundle's registry, so that the contract can be asked about it."""
    return bool(record.payload["place"]["registry"] == bundle.registry)


def check_records(bundle: Bundle, records: Mapping[int, Record]) -> dict[int, int]:
    """Check each record's signature by the key that the contract knows for its organisation, or for an operator.

    Returns:
        For each record's index the index of the ``org`` record of its signer: the last one that stands before it.

    Raises:
        Rejected: ``bad_bundle``, ``unknown_signer``, ``bad_signature``, ``wrong_signer``.
    """
    signers: dict[str, list[tuple[int, Record]]] = {}
    for index, record in sorted(records.items()):
        if record.t == "org":
            known = signers.setdefault(thumbprint(record.payload["jwk"]), [])
            if any(is_here(bundle, other) == is_here(bundle, record) for _, other in known):
                raise Rejected("One record key stands in two org records.", code="bad_bundle", pointer="/entries")
            known.append((index, record))
    rests_on: dict[int, int] = {}
    for index, record in sorted(records.items()):
        known = signers.get(record.jws.kid, [])
        if not known:
            raise Rejected("The signer of a record has no org record here.", code="unknown_signer")
        at, signer = next((one for one in reversed(known) if one[0] <= index), known[0])
        record.jws.check(P256Public.from_jwk(signer.payload["jwk"]))
        if record.t in BY_OPERATOR:
            if not signer.payload["roles"] & ROLES["operator"]:
                raise Rejected("This record is the operator's to sign.", code="wrong_signer")
        elif signer.payload["org"] != record.payload["org"]:
            raise Rejected("A record is signed by another organisation.", code="wrong_signer")
        if at > index or (at == index and record.t != "org"):
            raise Rejected("A record comes before its signer's organisation.", code="wrong_signer")
        rests_on[index] = at
    return rests_on


def _check_answer(bundle: Bundle, record: Record, answer: bytes) -> None:
    kid = thumbprint(record.payload["jwk"])
    place = record.payload["place"]
    account = bytes.fromhex(record.payload["account"][2:])
    on_chain = [answer[at : at + 32] for at in range(0, len(answer), 32)]
    said = (unb64u(kid, length=32), account, record.payload["roles"], place["number"])
    if len(answer) != 4 * 32 or said != (
        on_chain[0],
        on_chain[1][12:],
        int.from_bytes(on_chain[2]),
        int.from_bytes(on_chain[3]),
    ):
        raise Rejected("An org record differs from the contract.", code="wrong_organisation")
    if place["chain_id"] != bundle.chain_id:
        raise Rejected("An org record is of another chain.", code="wrong_organisation")


def _says_the_same(earlier: Record, later: Record) -> bool:
    return all(earlier.payload[name] == later.payload[name] for name in ("org", "jwk", "roles", "account"))
