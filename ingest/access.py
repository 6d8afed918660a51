"""Who may do what at the broker: Mosquitto's dynamic security plugin, driven by our register of devices.

A file of access rules would be simpler, but Mosquitto asks such a file only when it delivers, never when somebody
subscribes: a device could then join ``$share/ingest/...`` and swallow its share of everybody's messages.
"""

import base64
import hashlib
import json
import queue
import secrets
import threading
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion

from core.errors import Conflict, Unavailable
from ingest.topics import EVENTS_FILTER, SHARED_EVENTS, BrokerAddress, DeviceName

ADMIN = "tb-admin"
INGEST = "tb-ingest"
BULK_MIN = 100
_CONTROL = "$CONTROL/dynamic-security/v1"
_HASH_ROUNDS = 101
_COMMANDS_MAX = 200
# Answers that mean "done before": an earlier change was cut off half way. A role follows from its name alone.
_REPEATED = ("Role already exists", "Client not found", "Role not found")

Document = dict[str, Any]
Offline = Callable[[Callable[[Document], None]], None]


def new_password() -> str:
    """A password of 192 random bits."""
    return secrets.token_urlsafe(24)


def initial_document(passwords: Mapping[str, str]) -> Document:
    """The plugin's state with our own two users and nobody else.

    Args:
        passwords: of ``tb-admin`` and ``tb-ingest``.
    """
    control = _CONTROL.removesuffix("/v1") + "/#"
    admin = [_rule(kind, control) for kind in ("publishClientSend", "publishClientReceive", "subscribePattern")]
    ingest = [
        _rule("subscribeLiteral", SHARED_EVENTS),
        _rule("publishClientReceive", EVENTS_FILTER),
        _rule("publishClientSend", "tb/1/+/+/receipts"),
        _rule("publishClientSend", "tb/1/+/+/commands"),
    ]
    return {
        "defaultACLAccess": {
            "publishClientSend": False,
            "publishClientReceive": False,
            "subscribe": False,
            "unsubscribe": True,
        },
        "clients": [
            {"username": name, "roles": [{"rolename": name}], **_hashed(passwords[name])} for name in (ADMIN, INGEST)
        ],
        "groups": [],
        "roles": [{"rolename": ADMIN, "acls": admin}, {"rolename": INGEST, "acls": ingest}],
    }


def add_devices(document: Document, passwords: Mapping[DeviceName, str]) -> None:
    """Write devices into the plugin's state, in place of entries of the same names."""
    remove_devices(document, passwords.keys())
    for name, password in passwords.items():
        document["roles"].append({"rolename": name.username, "acls": _device_rules(name)})
        document["clients"].append({**_device_client(name), **_hashed(password)})


def remove_devices(document: Document, devices: Collection[DeviceName]) -> None:
    """Take devices out of the plugin's state."""
    gone = {name.username for name in devices}
    document["clients"] = [client for client in document["clients"] if client["username"] not in gone]
    document["roles"] = [role for role in document["roles"] if role["rolename"] not in gone]


class BrokerAccess:
    """Adds and removes devices at a running broker.

    Args:
        admin: the broker, with the name and password of ``tb-admin``.
        offline: edits the plugin's state file while the broker is stopped, where the broker is ours. The plugin
            rewrites its whole file at each command, which takes minutes for thousands of devices at once.
        authority: PEM file of the authority that signed the broker's certificate, for ``mqtts``.
        timeout_s: how long one answer of the plugin may take.
    """

    def __init__(
        self,
        admin: BrokerAddress,
        *,
        offline: Offline | None = None,
        authority: str | None = None,
        timeout_s: float = 20,
    ) -> None:
        self._admin = admin
        self._authority = authority
        self._offline = offline
        self._timeout_s = timeout_s
        self._lock = threading.Lock()

    def devices(self) -> set[DeviceName]:
        """The devices that may log in now."""
        with self._lock:
            return self._devices()

    def sync(self, devices: Iterable[DeviceName]) -> dict[DeviceName, str]:
        """Make the broker admit exactly ``devices``; gives the passwords of those that are new.

        A password is given once: only its hash stays here. A removed device is disconnected at once.

        Raises:
            Unavailable: the broker did not answer; call again.
        """
        wanted = set(devices)
        with self._lock:
            present = self._devices()
            added = {name: new_password() for name in sorted(wanted - present)}
            self._change(added, present - wanted)
        return added

    def admit(self, devices: Iterable[DeviceName]) -> dict[DeviceName, str]:
        """Let devices in beside those that are there; every one gets a new password, which is given this once.

        Raises:
            Unavailable: the broker did not answer; call again.
        """
        added = {name: new_password() for name in sorted(set(devices))}
        with self._lock:
            self._change(added, added.keys() & self._devices())
        return added

    def add(self, name: DeviceName, password: str | None = None) -> str:
        """Let one device in, or give it a new password; returns the password."""
        chosen = password or new_password()
        with self._lock:
            gone = {name} & self._devices()
            self._change({name: chosen}, gone)
        return chosen

    def remove(self, name: DeviceName) -> None:
        """Shut one device out and disconnect it."""
        with self._lock:
            self._change({}, {name} & self._devices())

    def _devices(self) -> set[DeviceName]:
        [answer] = self._ask([{"command": "listClients", "count": -1, "offset": 0}])
        names = answer["data"]["clients"]
        return {DeviceName(*name.split("/", 1)) for name in names if "/" in name}

    def _change(self, added: Mapping[DeviceName, str], removed: Collection[DeviceName]) -> None:
        if self._offline is not None and len(added) + len(removed) >= BULK_MIN:

            def edit(document: Document) -> None:
                remove_devices(document, removed)
                add_devices(document, added)

            self._offline(edit)
            return
        commands: list[Document] = []
        for name in removed:
            commands.append({"command": "deleteClient", "username": name.username})
            commands.append({"command": "deleteRole", "rolename": name.username})
        for name, password in added.items():
            commands.append({"command": "createRole", "rolename": name.username, "acls": _device_rules(name)})
            commands.append({"command": "createClient", "password": password, **_device_client(name)})
        for start in range(0, len(commands), _COMMANDS_MAX):
            self._ask(commands[start : start + _COMMANDS_MAX])

    def _ask(self, commands: Sequence[Document]) -> list[Document]:
        if not commands:
            return []
        mark = secrets.token_hex(8)
        answers: queue.Queue[list[Document]] = queue.Queue()
        body = json.dumps({"commands": [{**command, "correlationData": mark} for command in commands]})

        def on_connect(client: mqtt.Client, _data: Any, _flags: Any, reason: Any, _properties: Any) -> None:
            if not reason.is_failure:
                client.subscribe(_CONTROL + "/response", 1)

        def on_subscribe(client: mqtt.Client, *_: Any) -> None:
            client.publish(_CONTROL, body, 1)

        def on_message(_client: mqtt.Client, _data: Any, message: mqtt.MQTTMessage) -> None:
            found = json.loads(message.payload)["responses"]
            if found and found[0].get("correlationData") == mark:
                answers.put(found)

        client = mqtt.Client(CallbackAPIVersion.VERSION2, f"{ADMIN}-{mark}", protocol=mqtt.MQTTv5)
        client.username_pw_set(self._admin.username, self._admin.password)
        if self._admin.is_tls:
            client.tls_set(ca_certs=self._authority)
        client.on_connect, client.on_subscribe, client.on_message = on_connect, on_subscribe, on_message
        try:
            client.connect(self._admin.host, self._admin.port)
            client.loop_start()
            found = answers.get(timeout=self._timeout_s)
        except (OSError, queue.Empty) as error:
            raise Unavailable("The broker's access plugin does not answer.", code="broker_away") from error
        finally:
            client.disconnect()
            client.loop_stop()
        faults = [answer for answer in found if "error" in answer and answer["error"] not in _REPEATED]
        if faults:
            raise Conflict(
                f"The broker's access plugin refused {faults[0]['command']}: {faults[0]['error']}.",
                code="broker_access",
            )
        return found


def _device_rules(name: DeviceName) -> list[Document]:
    return [
        _rule("publishClientSend", name.events),
        _rule("subscribeLiteral", name.receipts),
        _rule("publishClientReceive", name.receipts),
        _rule("subscribeLiteral", name.commands),
        _rule("publishClientReceive", name.commands),
    ]


def _device_client(name: DeviceName) -> Document:
    # The client id is bound to the credentials: nobody takes over another device's session.
    return {"username": name.username, "clientid": name.username, "roles": [{"rolename": name.username}]}


def _rule(kind: str, topic: str) -> Document:
    return {"acltype": kind, "topic": topic, "priority": 0, "allow": True}


def _hashed(password: str) -> Document:
    salt = secrets.token_bytes(12)
    digest = hashlib.pbkdf2_hmac("sha512", password.encode(), salt, _HASH_ROUNDS)
    return {
        "password": base64.b64encode(digest).decode(),
        "salt": base64.b64encode(salt).decode(),
        "iterations": _HASH_ROUNDS,
    }
