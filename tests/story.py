"""The whole infant formula story in a database and on a built-in chain, without broker and devices."""

import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from contracts.chain import Chain
from contracts.clients import OrganisationRegistryClient
from contracts.deploy import Deployment, deploy
from contracts.opening import open_chain
from contracts.signer import Signer
from core.canonical import sha256, unb64u
from core.crypto import Ed25519Private, P256Private
from core.message import issue, open_message, split
from core.prefixmap import map_key
from core.records import ROLES, common, key_members, sign_record
from ledger import findings, store
from ledger.anchor import Anchorer, AnchorSettings
from ledger.chain_book import check_start, enqueue
from ledger.chain_tx import ChainSender
from ledger.database import Database
from ledger.followers import run_all
from ledger.itemmap import ProofMap
from ledger.log import Sequencer
from ledger.proofs import LogPlace
from ledger.state import views
from simulators.scenario import Plan, infant_formula

AUD = "https://story.example"
ORIGIN = "story.example/log"
NOW = 1_795_000_000
CHECKPOINT_KEY = Ed25519Private(sha256(b"story log"))


@dataclass
class Story:
    """What is open after the story was told."""

    database: Database
    chain: Chain
    deployment: Deployment
    plan: Plan
    maps: ProofMap
    place: LogPlace

    def highlight(self, name: str) -> str:
        return self.plan.highlights[name]


def tell(database: Database, folder: Path, *, units: int = 60) -> Story:
    """Register everybody, log every message, anchor, and let the followers read it all."""
    plan = infant_formula(seed=7, now=NOW, units=units)
    chain = open_chain(None, folder, genesis_salt=b"story")
    signer = Signer(folder / "keys")
    deployment = deploy(
        chain, signer, folder, origin=ORIGIN, checkpoint_key=CHECKPOINT_KEY.public.raw, k_check=sha256(b"story k")
    )
    check_start(database, chain, deployment, now_ms=NOW * 1000)
    with database.transaction() as tx:
        store.set_identity(tx, aud=AUD, log=ORIGIN)
    keys = _register(database, chain, signer, deployment, plan)
    sequencer = Sequencer(database, CHECKPOINT_KEY, ORIGIN)
    sequencer.step(NOW)
    _send(database, plan, keys, sequencer)
    sequencer.step(NOW + 2)
    run_all(database, views())
    findings.run_all(database)
    maps = ProofMap()
    with database.reading() as tx:
        maps.advance(tx, _anchor(database, chain, signer))
    place = LogPlace(
        contract=deployment.log_contract,
        registry=deployment.organisations,
        log_id=deployment.log_id,
        chain_id=deployment.chain_id,
        genesis=deployment.genesis_hash,
    )
    return Story(database, chain, deployment, plan, maps, place)


def _register(
    database: Database, chain: Chain, signer: Signer, deployment: Deployment, plan: Plan
) -> dict[str, P256Private]:
    organisations = {org.name: P256Private.from_secret(org.id.encode()) for org in plan.cast.organisations}
    registry = OrganisationRegistryClient(chain, deployment.organisations)
    first = sorted(plan.cast.organisations, key=lambda org: org.role != "operator")
    with database.transaction() as tx:
        for org in first:
            call = registry.set_organisation_call(
                map_key("org", org.id),
                record_key=unb64u(organisations[org.name].thumbprint(), length=32),
                account=signer.address(f"org-{org.gln}"),
                roles=ROLES[org.role],
            )
            enqueue(
                tx, account="admin", to=deployment.organisations, data=call, purpose="organisation", reference=org.id,
                now_ms=NOW * 1000,
            )  # fmt: skip
    _drain(database, chain, signer)
    operator = first[0]
    for org in first:
        on_chain = registry.organisation_at(map_key("org", org.id), 0)
        place = {"chain_id": chain.chain_id, "number": on_chain.block_number, "registry": deployment.organisations}
        members = {
            "name": org.name_en, "roles": ROLES[org.role], "account": signer.address(f"org-{org.gln}"),
            "jwk": organisations[org.name].jwk(), "version": 0, "place": place,
        }  # fmt: skip
        _record(database, "org", org.id, members, organisations[operator.name])
    devices: dict[str, P256Private] = {}
    for device in plan.cast.devices:
        key = devices[device.name] = P256Private.from_secret(b"device " + device.name.encode())
        org = plan.cast.organisation(device.org)
        members = key_members(key.jwk(), iss=plan.cast.iss(device.name), use="device", scope={})
        _record(database, "key", org.id, members, organisations[org.name])
    for handle, subject, fact, value in plan.cast.master_facts():
        org = plan.cast.organisation(handle)
        members = {"subject": subject, "fact": fact, "value": value}
        _record(database, "master", org.id, members, organisations[handle])
    return devices


def _record(database: Database, t: str, org: str, members: dict[str, Any], key: P256Private) -> None:
    payload = common(t=t, aud=AUD, log=ORIGIN, org=org, iat=NOW - 21 * 86_400) | members
    with database.transaction() as tx:
        store.admit_record(tx, sign_record(payload, key), now_ms=(NOW - 21 * 86_400) * 1000)


def _send(database: Database, plan: Plan, keys: dict[str, P256Private], sequencer: Sequencer) -> None:
    chance = random.Random(7)
    chains: dict[str, tuple[int, bytes | None]] = {}
    for start in range(0, len(plan.steps), 200):
        by_time: dict[int, list[Any]] = {}
        for step in plan.steps[start : start + 200]:
            device = next(device for device in plan.cast.devices if device.name == step.device)
            seq, prev = chains.get(step.device, (0, None))
            key = keys[step.device]
            raw = issue(
                step.events, aud=AUD, org=plan.cast.organisation(device.org).id, iss=plan.cast.iss(step.device),
                iat=step.at, seq=seq, prev=prev, key=key, salts=lambda: chance.randbytes(16),
            )  # fmt: skip
            message = open_message(split(raw), key.public)
            chains[step.device] = (seq + 1, message.id)
            by_time.setdefault(step.at, []).append(message)
        with database.transaction() as tx:
            for at, messages in sorted(by_time.items()):
                store.admit(tx, messages, now_ms=at * 1000 + 400)
        sequencer.step(NOW + 1)


def _drain(database: Database, chain: Chain, signer: Signer) -> None:
    sender = ChainSender(database, chain, signer)
    for turn in range(200):
        if sender.step(NOW * 1000 + turn).is_idle and turn > 2:
            return
    raise RuntimeError("the chain did not settle")


def _anchor(database: Database, chain: Chain, signer: Signer) -> int:
    anchorer = Anchorer(database, chain, AnchorSettings(interval_ms=0))
    sender = ChainSender(database, chain, signer)
    for turn in range(50):
        anchorer.step(NOW * 1000 + turn * 1000)
        sender.step(NOW * 1000 + turn * 1000 + 500)
        from ledger.anchor import last_final_anchor

        with database.reading() as tx:
            final = last_final_anchor(tx)
        if final is not None:
            return final.size
    raise RuntimeError("no anchor became final")
