"""``tracebond simulate SCENARIO``: a whole fleet, enrolled here, that sends to a running server."""

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from core.crypto import thumbprint
from ingest.files import write_private
from ingest.topics import device_name
from simulators.fleet import Progress, run_fleet
from simulators.fleet_scenario import FleetPlan, load_fleet
from simulators.misbehaviour import Misbehaviour, Troublemaker
from simulators.outbox import Outbox
from tracebond.enrol import Enrolment, OrganisationSpec
from tracebond.loops import now_s
from tracebond.parts import Parts, open_parts
from tracebond.running import broker_access, broker_url
from tracebond.settings import Settings

_ENROLLED_AT_ONCE = 1_000
# Sooner than a real device: a run is short, and what a bad network dropped should come within it.
RESEND_S = 5.0


@dataclass(frozen=True)
class FleetRun:
    """What to run: scenario (name or TOML file), seed, number of devices (None: the file's), and for how long.

    Attributes:
        speed: simulated seconds per second. messages_max: end after so many. drain_s: wait so long for receipts.
    """

    scenario: str | Path
    seed: str
    devices: int | None
    duration_s: float
    speed: float
    messages_max: int | None
    drain_s: float
    faults: Misbehaviour


def simulate(
    settings: Settings, run: FleetRun, *, say: Callable[[str], None], show: Callable[[Progress], None]
) -> Progress:
    """Enrol the fleet where it is not yet, let it talk, and reconcile with its receipts at the end.

    Args:
        say: is told each step. show: is told the progress, every second.

    Raises:
        Rejected: ``bad_scenario``. Unavailable: no server on this data folder, or no receipt in time.
    """
    parts = open_parts(settings)
    try:
        # The last simulated moment is now: nothing that a fleet says lies in the future.
        start = now_s() - int(run.duration_s * run.speed)
        plan = load_fleet(run.scenario, seed=run.seed, start=start, devices=run.devices)
        folder = settings.data.absolute() / "simulate" / f"{plan.name}-{run.seed}-{len(plan.devices)}"
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        enrol_fleet(parts, plan, say)
        passwords = _passwords(parts, plan, folder / "passwords.json", say)
        maker = Troublemaker(run.faults, seed=run.seed, start=start, now=now_s, clock=time.monotonic)
        say(f"{len(plan.devices)} devices talk for {run.duration_s:g} s at {run.speed:g} times the pace of life")
        try:
            return run_fleet(
                maker.plan(plan),
                folder=folder,
                url=broker_url(settings),
                aud=settings.service_id,
                receipt_keys=(parts.keyfiles.receipt.jwk(),),
                start=start,
                duration_s=run.duration_s,
                speed=run.speed,
                messages_max=run.messages_max,
                passwords=passwords,
                wrap=maker.wrap,
                ca_file=settings.broker_ca or None,
                drain_s=run.drain_s,
                progress=show,
                resend_s=RESEND_S,
            )
        finally:
            _tell(plan, maker, folder, say)
    finally:
        parts.close()


def enrol_fleet(parts: Parts, plan: FleetPlan, say: Callable[[str], None]) -> None:
    """Register a fleet's organisations, master data and keys; what is in the log already is left as it is."""
    enrolment, cast = Enrolment(parts), plan.cast
    specs = [OrganisationSpec(each.gln, each.name_en, each.role) for each in cast.organisations]
    keys = {each.gln: parts.keyfiles.organisation(each.gln) for each in cast.organisations}
    say(f"registering {len(specs)} organisations")
    enrolment.organisations(specs, keys)
    new = _unknown(parts, plan)
    if not new:
        return
    say(f"enrolling {len(new)} devices")
    for org in cast.organisations:
        own = [device for device in plan.devices if device.group.org == org.name and device.key.thumbprint() in new]
        for first in range(0, len(own), _ENROLLED_AT_ONCE):
            some = own[first : first + _ENROLLED_AT_ONCE]
            wanted = [(d.key.jwk(), cast.iss(d.name), "device", cast.scope(d.name)) for d in some]
            enrolment.keys(org.id, keys[org.gln], wanted)
        facts = [(subject, fact, value) for name, subject, fact, value in cast.master_facts() if name == org.name]
        enrolment.master(org.id, keys[org.gln], facts)
    enrolment.wait_sequenced([thumbprint(device.key.jwk()) for device in plan.devices][-1:])
    enrolment.wait_sequenced(sorted(new))


def _unknown(parts: Parts, plan: FleetPlan) -> set[str]:
    from ledger.keys import keys_of

    with parts.db.reading() as tx:
        known = {key.kid for org in plan.cast.organisations for key in keys_of(tx, org=org.id)}
    return {device.key.thumbprint() for device in plan.devices} - known


def _passwords(parts: Parts, plan: FleetPlan, path: Path, say: Callable[[str], None]) -> Mapping[str, str] | None:
    """Logins of all devices; those that the broker has under passwords kept here are left as they are."""
    access = broker_access(parts.settings)
    if access is None:
        found = parts.settings.data / "device-passwords.json"
        if parts.settings.source and found.exists():
            kept: dict[str, str] = json.loads(found.read_text(encoding="utf-8"))
            return kept
        return None
    orgs = {each.name: each.id for each in plan.cast.organisations}
    names = {device_name(orgs[each.group.org], plan.cast.iss(each.name)) for each in plan.devices}
    known: dict[str, str] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    missing = {name for name in names if name.username not in known} | (names - access.devices())
    if missing:
        say(f"letting {len(missing)} devices in at the broker")
        known |= {name.username: password for name, password in access.admit(missing).items()}
        write_private(path, json.dumps(known))
    return known


def _tell(plan: FleetPlan, maker: Troublemaker, folder: Path, say: Callable[[str], None]) -> None:
    made = ", ".join(f"{count} {name.replace('_', '-')}" for name, count in sorted(maker.made.counts.items()))
    if made:
        say(f"faults made: {made}; {len(maker.made.hostile)} publishes that nobody may accept")
    if maker.drifted or maker.tampered:
        say(f"{len(maker.drifted)} devices with drifted clocks, {len(maker.tampered)} with tampered sensors")
    outbox = Outbox(folder / "fleet.db")
    totals: dict[str, int] = {}
    for device in plan.devices:
        for state, count in outbox.counts(device.name).items():
            totals[state] = totals.get(state, 0) + count
    outbox.close()
    say(f"in the outbox {folder / 'fleet.db'}: " + ", ".join(f"{count} {state}" for state, count in totals.items()))
