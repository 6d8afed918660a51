"""Organisations on the chain and in the log, devices' keys, master data: what must stand before the first message."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from contracts.clients import OrganisationRegistryClient
from core.canonical import unb64u
from core.crypto import Jwk, P256Private, P256Public, thumbprint
from core.errors import Broken, Conflict, Unavailable
from core.identifiers import giai_id, org_id
from core.prefixmap import map_key
from core.records import ROLES, common, key_members, sign_record
from finance.model import account_name
from ledger.chain_book import enqueue, enqueue_funding, state_of
from ledger.keys import key_info, org_info
from ledger.store import admit_record, get_fact, put_fact
from tracebond.loops import now_ms, now_s
from tracebond.parts import Parts

ACCOUNT_WEI = 10**18
# The name of the gateway's key file; processes that share the data folder share the key and take turns.
GATEWAY = "1"
WAIT_S = 120.0
_POLL_S = 0.1


@dataclass(frozen=True)
class OrganisationSpec:
    """An organisation to register: GLN, English name, and one role or more."""

    gln: str
    name: str
    role: str
    more_roles: tuple[str, ...] = ()

    @property
    def id(self) -> str:
        """The canonical organisation id."""
        return org_id(self.gln)

    @property
    def roles(self) -> int:
        """The sum of its role bits."""
        return sum(ROLES[role] for role in {self.role, *self.more_roles})


class Enrolment:
    """Registers organisations and keys through the database; the sender and sequencer threads carry it out.

    Args:
        step: moves the senders on while this waits, where no thread does.
    """

    def __init__(self, parts: Parts, step: Callable[[], object] = lambda: None) -> None:
        self._parts = parts
        self._step = step
        self._registry = OrganisationRegistryClient(parts.chain, parts.deployment.organisations)

    def operator(self) -> None:
        """The operator's own organisation, and the key that signs receipts."""
        settings = self._parts.settings
        spec = OrganisationSpec(settings.operator_gln, "Operator", "operator")
        self.organisations([spec], {spec.gln: self._parts.keyfiles.operator})
        receipt = self._parts.keyfiles.receipt
        self.key(spec.id, self._parts.keyfiles.operator, receipt.jwk(), iss=spec.id, use="receipt", scope={})
        gateway = self._parts.keyfiles.gateway(GATEWAY).jwk()
        # One device for each key: a machine of its own has a key of its own.
        device = giai_id(f"{settings.operator_gln[:7]}GW{thumbprint(gateway)[:10]}")
        self.key(spec.id, self._parts.keyfiles.operator, gateway, iss=device, use="gateway", scope={})

    def organisations(self, specs: Sequence[OrganisationSpec], keys: Mapping[str, P256Private | P256Public]) -> None:
        """Register them on the chain (final), then in the log; what is there already is left as it is.

        Args:
            keys: the record-signing key of each GLN; its public half where the organisation keeps the key itself.
        """
        pending = [spec for spec in specs if not self._is_registered(spec, keys[spec.gln])]
        ids = []
        with self._parts.db.transaction() as tx:
            for spec in pending:
                address = self._parts.signer.address(account_name(spec.id))
                reference = f"{spec.id}/{thumbprint(keys[spec.gln].jwk())}/{spec.roles}"
                data = self._registry.set_organisation_call(
                    map_key("org", spec.id),
                    record_key=unb64u(keys[spec.gln].thumbprint(), length=32),
                    account=address,
                    roles=spec.roles,
                )
                ids.append(
                    enqueue(
                        tx, account="admin", to=self._registry.address, data=data, purpose="organisation",
                        reference=reference, now_ms=now_ms(),
                    )
                )  # fmt: skip
                if self._parts.chain.is_development:
                    ids.append(
                        enqueue_funding(tx, address=address, value=ACCOUNT_WEI, reference=reference, now_ms=now_ms())
                    )
        self.wait_final(ids)
        for spec in specs:
            self._record_organisation(spec, keys[spec.gln])

    def key(self, org: str, org_key: P256Private, jwk: Jwk, *, iss: str, use: str, scope: Mapping[str, Any]) -> None:
        """One ``key`` record signed by its organisation; nothing when the key has its record already."""
        self.keys(org, org_key, [(jwk, iss, use, scope)])

    def keys(self, org: str, org_key: P256Private, wanted: Sequence[tuple[Jwk, str, str, Mapping[str, Any]]]) -> None:
        """Several ``key`` records of one organisation: (jwk, iss, use, scope) each."""
        with self._parts.db.transaction() as tx:
            for jwk, iss, use, scope in wanted:
                if key_info(tx, thumbprint(jwk)) is None:
                    payload = self._common("key", org) | key_members(jwk, iss=iss, use=use, scope=scope)
                    admit_record(tx, sign_record(payload, org_key), now_ms=now_ms())

    def master(self, org: str, org_key: P256Private, facts: Sequence[tuple[str, str, Mapping[str, Any]]]) -> None:
        """``master`` records of one organisation: (subject, fact, value) each."""
        with self._parts.db.transaction() as tx:
            for subject, fact, value in facts:
                payload = self._common("master", org) | {"subject": subject, "fact": fact, "value": dict(value)}
                admit_record(tx, sign_record(payload, org_key), now_ms=now_ms())

    def wait_final(self, ids: Sequence[int]) -> None:
        """Return when all these chain_txs are final.

        Raises:
            Conflict: the contract refused one. Unavailable: not final in two minutes.
        """
        deadline = time.monotonic() + WAIT_S
        waiting = list(ids)
        while waiting:
            self._step()
            with self._parts.db.reading() as tx:
                states = [state_of(tx, ident) for ident in waiting]
            for state in states:
                if state.state in ("reverted", "lost"):
                    raise Conflict(f"The contract refused: {state.reason}", code="chain_refused")
            waiting = [state.id for state in states if state.state != "final"]
            if waiting and time.monotonic() > deadline:
                raise Unavailable("The chain has not made a chain_tx final in time.", code="not_final")
            if waiting:
                time.sleep(_POLL_S)

    def wait_sequenced(self, kids: Sequence[str]) -> None:
        """Return when the records of these keys have their place in the log."""
        deadline = time.monotonic() + WAIT_S
        while True:
            self._step()
            with self._parts.db.reading() as tx:
                missing = [kid for kid in kids if key_info(tx, kid) is None]
            if not missing:
                return
            if time.monotonic() > deadline:
                raise Unavailable("The log has not taken a key record in time; is the sequencer running?")
            time.sleep(_POLL_S)

    def _is_registered(self, spec: OrganisationSpec, key: P256Private | P256Public) -> bool:
        current = self._registry.current(map_key("org", spec.id))
        is_same_key = current is not None and current.record_key == unb64u(key.thumbprint(), length=32)
        return current is not None and is_same_key and int(current.roles) == spec.roles

    def _record_organisation(self, spec: OrganisationSpec, key: P256Private | P256Public) -> None:
        org_key = map_key("org", spec.id)
        version = self._registry.version_count(org_key) - 1
        on_chain = self._registry.organisation_at(org_key, version)
        if on_chain.record_key != unb64u(key.thumbprint(), length=32):
            raise Broken(f"The chain knows another record key of {spec.id}.", code="wrong_organisation")
        place = {
            "chain_id": self._parts.deployment.chain_id,
            "number": on_chain.block_number,
            "registry": self._parts.deployment.organisations,
        }
        fact = f"org:{spec.id}:{place['registry']}:{version}"
        with self._parts.db.transaction() as tx:
            if get_fact(tx, fact) is not None:
                return
            payload = self._common("org", spec.id) | {
                "name": spec.name,
                "roles": int(on_chain.roles),
                "account": on_chain.account,
                "jwk": key.jwk(),
                "version": version,
                "place": place,
            }
            admit_record(tx, sign_record(payload, self._parts.keyfiles.operator), now_ms=now_ms())
            put_fact(tx, fact, "recorded")

    def _common(self, t: str, org: str) -> dict[str, Any]:
        settings = self._parts.settings
        return common(t=t, aud=settings.service_id, log=settings.origin, org=org, iat=now_s())


def is_known(parts: Parts, org: str) -> bool:
    """Whether the log knows an organisation."""
    with parts.db.reading() as tx:
        return org_info(tx, org) is not None
