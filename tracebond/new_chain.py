"""After ``--new-chain``: the organisations that the log knows are registered on the new contracts, and recorded."""

from collections.abc import Callable

from contracts.clients import OrganisationRegistryClient
from core.canonical import unb64u
from core.prefixmap import map_key
from core.records import common, sign_record
from ledger.chain_book import enqueue, enqueue_funding
from ledger.database import Tx
from ledger.keys import OrgInfo, all_orgs
from ledger.store import admit_record, get_fact, put_fact
from tracebond.enrol import ACCOUNT_WEI, Enrolment
from tracebond.loops import now_ms, now_s
from tracebond.parts import Parts


def unregistered(parts: Parts, tx: Tx) -> list[OrgInfo]:
    """Organisations whose newest record names another registry than the present one."""
    here = parts.deployment.organisations
    return [info for info in all_orgs(tx) if info.place.get("registry") != here]


def register_again(parts: Parts, enrolment: Enrolment, say: Callable[[str], None] = lambda text: None) -> int:
    """Bring every organisation of the log onto the contracts in use; nothing when all are there. Gives how many.

    Accounts, roles and record keys are those of the log. May be interrupted and repeated.
    """
    registry = OrganisationRegistryClient(parts.chain, parts.deployment.organisations)
    with parts.db.reading() as tx:
        missing = unregistered(parts, tx)
    if not missing:
        return 0
    say(f"registering {len(missing)} organisations again on the new chain")
    ids = []
    with parts.db.transaction() as tx:
        for info in missing:
            data = registry.set_organisation_call(
                map_key("org", info.org), record_key=unb64u(info.kid, length=32), account=info.account, roles=info.roles
            )
            reference = f"{info.org}/{info.kid}/{info.roles}"
            ids.append(
                enqueue(
                    tx, account="admin", to=registry.address, data=data, purpose="organisation", reference=reference,
                    now_ms=now_ms(),
                )
            )  # fmt: skip
            if parts.chain.is_development:
                ids.append(
                    enqueue_funding(tx, address=info.account, value=ACCOUNT_WEI, reference=reference, now_ms=now_ms())
                )
    enrolment.wait_final(ids)
    for info in missing:
        _record(parts, registry, info)
    return len(missing)


def _record(parts: Parts, registry: OrganisationRegistryClient, info: OrgInfo) -> None:
    key = map_key("org", info.org)
    version = registry.version_count(key) - 1
    on_chain = registry.organisation_at(key, version)
    place = {
        "chain_id": parts.deployment.chain_id,
        "number": on_chain.block_number,
        "registry": parts.deployment.organisations,
    }
    fact = f"org:{info.org}:{place['registry']}:{version}"
    with parts.db.transaction() as tx:
        if get_fact(tx, fact) is not None:
            return
        settings = parts.settings
        payload = common(t="org", aud=settings.service_id, log=settings.origin, org=info.org, iat=now_s()) | {
            "name": info.name,
            "roles": int(on_chain.roles),
            "account": on_chain.account,
            "jwk": info.public.jwk(),
            "version": version,
            "place": place,
        }
        admit_record(tx, sign_record(payload, parts.keyfiles.operator), now_ms=now_ms())
        put_fact(tx, fact, "recorded")
