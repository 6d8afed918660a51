"""The demo's devices: enrolled, connected over MQTT, each telling its part; and a few that lie."""

import random
import time
from typing import Any

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion

from core.crypto import generate_p256
from core.errors import Unavailable
from ingest import quarantine
from ingest.topics import device_name, read_broker_url
from simulators.connection import Fleet
from simulators.devices import Device, DeviceConfig
from simulators.faults import hostile_messages
from simulators.randomness import Drbg
from simulators.scenario import Plan
from tracebond.enrol import Enrolment
from tracebond.loops import now_s
from tracebond.process import Running

RECEIPTS_S = 180.0
_TURN_S = 0.5


class DemoFleet:
    """Brings the devices of a plan online and lets them tell it."""

    def __init__(self, running: Running, plan: Plan, *, say: Any) -> None:
        self._running, self._plan, self._say = running, plan, say
        self._parts = running.parts
        self._folder = self._parts.settings.data.absolute() / "devices"
        self._devices: dict[str, Device] = {}
        self._fleet: Fleet | None = None

    @property
    def url(self) -> str:
        """Where devices connect."""
        broker = self._running.broker
        return broker.address.url if broker is not None else self._parts.settings.broker_url

    def run(self) -> None:
        """Enrol, connect, tell everything, and wait for every receipt."""
        self._say(f"enrolling {len(self._plan.cast.devices)} devices")
        self._open_devices()
        self._enrol()
        fleet = Fleet(list(self._devices.values()), self.url)
        self._fleet = fleet
        fleet.start()
        total = len(self._plan.steps)
        self._say(f"{total} messages with {self._plan.events} events go out over MQTT")
        told: dict[str, int] = {}
        for step in self._plan.steps:
            device = self._devices[step.device]
            number = told.get(step.device, 0)
            told[step.device] = number + 1
            # A run that was cut off goes on where each device's own sequence stands.
            if number >= self._recorded(device):
                device.record(step.events, step.at)
        self._drain(fleet, total)

    def attack(self) -> list[tuple[str, str]]:
        """Send what a hostile or broken device might send; gives what each was refused for."""
        device = next(iter(self._devices.values()))
        event = dict(next(step for step in self._plan.steps if step.device == device.config.name).events[0])
        messages = hostile_messages(device, event, now_s(), Drbg(f"demo/{now_s()}".encode()))
        if self._fleet is not None:
            self._fleet.stop()
            self._fleet = None
        client = self._client(device)
        refused = []
        for fault, payload in messages.items():
            before = self._held()
            info = client.publish(device.config.topic("events"), payload, qos=1)
            info.wait_for_publish(10)
            code = self._new_code(before)
            words = fault.replace("_", " ")
            refused.append((f"device message: {words}", code or "ignored: the same bytes were stored before"))
        client.disconnect()
        client.loop_stop()
        self._say(f"{len(refused)} hostile messages went to quarantine")
        return refused

    def stop(self) -> None:
        """Disconnect the devices and close their outboxes."""
        if self._fleet is not None:
            self._fleet.stop()
        for device in self._devices.values():
            device.close()

    def _open_devices(self) -> None:
        cast, settings = self._plan.cast, self._parts.settings
        receipt_key = self._parts.keyfiles.receipt.jwk()
        for spec in cast.devices:
            folder = self._folder / spec.name
            if (folder / "key.pem").exists():
                self._devices[spec.name] = Device.open(folder)
                continue
            config = DeviceConfig.of(
                spec.name,
                aud=settings.service_id,
                org=cast.organisation(spec.org).id,
                iss=cast.iss(spec.name),
                receipt_keys=(receipt_key,),
            )
            self._devices[spec.name] = Device.create(folder, config, generate_p256())

    def _enrol(self) -> None:
        cast, enrolment = self._plan.cast, Enrolment(self._parts)
        for org in cast.organisations:
            mine = [spec for spec in cast.devices if spec.org == org.name]
            wanted = [(self._jwk(spec.name), cast.iss(spec.name), "device", cast.scope(spec.name)) for spec in mine]
            if wanted:
                enrolment.keys(org.id, self._parts.keyfiles.organisation(org.gln), wanted)
        enrolment.wait_sequenced([device.kid for device in self._devices.values()])
        names = {device_name(d.config.org, d.config.iss): d for d in self._devices.values()}
        for name, password in self._running.admit_devices(names).items():
            device = names.get(name)
            if device is not None:
                more = {"username": name.username, "password": password}
                config = DeviceConfig.of(
                    device.config.name, aud=device.config.aud, org=device.config.org, iss=device.config.iss,
                    receipt_keys=device.config.receipt_keys, **more,
                )  # fmt: skip
                device.configure(self._folder / device.config.name, config)

    def _jwk(self, name: str) -> dict[str, str]:
        return self._devices[name].key.jwk()

    def _recorded(self, device: Device) -> int:
        return int(device.outbox.head(device.config.name)[0])

    def _drain(self, fleet: Fleet, total: int) -> None:
        deadline = time.monotonic() + RECEIPTS_S
        shown = -1
        while fleet.pending:
            done = (total - fleet.pending) * 10 // total
            if done != shown:
                shown = done
                self._say(f"{total - fleet.pending} of {total} messages have their receipt")
            if time.monotonic() > deadline:
                raise Unavailable("The devices did not get their receipts in time.", code="too_slow")
            time.sleep(_TURN_S)
        self._say(f"all {total} messages have their receipt")

    def _client(self, device: Device) -> mqtt.Client:
        address = read_broker_url(self.url)
        config = device.config
        name = config.username or f"demo-attack-{random.randrange(10**6)}"
        client = mqtt.Client(CallbackAPIVersion.VERSION2, name, protocol=mqtt.MQTTv5)
        if config.username:
            client.username_pw_set(config.username, config.password)
        elif address.username is not None:
            client.username_pw_set(address.username, address.password)
        client.connect(address.host, address.port)
        client.loop_start()
        return client

    def _held(self) -> int:
        with self._parts.db.reading() as tx:
            rows = quarantine.search(tx, limit=1)
        return max((row.id for row in rows), default=0)

    def _new_code(self, before: int) -> str:
        deadline = time.monotonic() + 5
        while time.monotonic() < deadline:
            with self._parts.db.reading() as tx:
                rows = [row for row in quarantine.search(tx, limit=5) if row.id > before]
            if rows:
                return f"{rows[0].code}: {rows[0].sentence}"
            time.sleep(0.1)
        return ""
