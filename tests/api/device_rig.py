"""A site with a desk for devices: the maker's key is kept by the platform, the carrier keeps its own."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from api.app import create_app
from api.identity import Role
from api.services import Services, WebSettings
from core.canonical import canonical_bytes
from core.crypto import P256Private
from core.jws import sign_jws
from core.records import common, key_members, sign_record
from ingest.claims import ClaimDesk, make_codes
from ingest.devicedesk import DeviceDesk
from ingest.doors import Doors
from ingest.receipts import Terms
from ingest.recorddesk import RecordDesk
from ingest.topics import DeviceName
from ledger.database import Database
from ledger.followers import run_all
from ledger.keyfiles import KeyFiles
from ledger.state import views
from tests.api.conftest import Clock, Random, Site
from tests.ledger.world import AUD, CARRIER, LOG, MAKER, NOW, World

RECEIPT = P256Private.from_secret(b"receipts of the rig")


class Broker:
    """A broker's list of devices."""

    def __init__(self) -> None:
        self.passwords: dict[DeviceName, str] = {}
        self.given = 0

    def devices(self) -> set[DeviceName]:
        return set(self.passwords)

    def add(self, name: DeviceName, password: str | None = None) -> str:
        self.given += 1
        self.passwords[name] = password or f"password-{self.given}"
        return self.passwords[name]

    def remove(self, name: DeviceName) -> None:
        self.passwords.pop(name, None)


@dataclass
class Rig(Site):
    """The site with its world, its broker and its desk."""

    world: World
    broker: Broker
    desk: DeviceDesk

    def engineer(self, org: str = MAKER, *roles: Role) -> Any:
        """A signed-in client of the organisation's factory engineer."""
        number = int.from_bytes(self.random(8))
        return self.signed_in(self.user(f"engineer-{number}", *(roles or (Role.FACTORY,)), org=org))

    def step(self) -> None:
        """Everything stored gets its place in the log, and the views follow."""
        self.world.step()
        run_all(self.database, views())

    def record(self, t: str, members: dict[str, Any], *, org: str = MAKER, signer: str | None = None) -> bytes:
        payload = common(t=t, aud=AUD, log=LOG, org=org, iat=self.world.now) | members
        return sign_record(payload, self.world.orgs[signer or org])

    def key_record(self, key: P256Private, name: str, *, org: str = MAKER, **members: Any) -> bytes:
        more: dict[str, Any] = {"iss": self.world.iss(name), "use": "device", "scope": {}} | members
        return self.record("key", key_members(key.jwk(), **more), org=org)

    def code(self, org: str = MAKER, **more: Any) -> str:
        with self.database.transaction() as tx:
            return make_codes(tx, org=org, made_by="test", now_ms=self.clock.now_ms, random=self.random, **more)[0]

    def claim(self, key: P256Private, code: str, *, aud: str = AUD, **more: Any) -> bytes:
        """A claim signed a second after the last one."""
        self.clock.now_ms += 1_000
        payload = {"v": 1, "aud": aud, "iat": self.clock.now_ms // 1_000, "code": code, "jwk": key.jwk()} | more
        return sign_jws(canonical_bytes(payload), typ="tb-claim+jwt", key=key)


def make_rig(database: Database, folder: Path, *, set_up: Callable[[Rig], None] = lambda rig: None) -> Rig:
    """The rig over a fresh database."""
    world = World(database).start()
    keyfiles = KeyFiles(folder / "keys")
    path = keyfiles.folder / f"org-{MAKER[-13:]}.pem"
    path.write_bytes(world.orgs[MAKER].to_pem())
    path.chmod(0o600)
    clock, random, broker = Clock(), Random(), Broker()
    clock.now_ms = NOW * 1_000
    records = RecordDesk(database, receipt_key=RECEIPT, aud=AUD, log=LOG, terms=Terms(), now_ms=clock)
    desk = DeviceDesk(
        database=database,
        records=records,
        claims=ClaimDesk(database, records, keyfiles=keyfiles, now_ms=clock),
        doors=Doors(database, lambda: broker),
        broker=lambda: "mqtt://broker.test:1883",
        receipt_keys=(RECEIPT.jwk(),),
        now_ms=clock,
        random=random,
    )
    settings = WebSettings(base_url="https://trace.example", service=AUD, origin=LOG)
    app = create_app(Services(db=database, settings=settings, now_ms=clock, random=random, devices=desk))
    rig = Rig(app, database, clock, random, world, broker, desk)
    set_up(rig)
    return rig


__all__ = ["CARRIER", "MAKER", "Rig", "make_rig"]
