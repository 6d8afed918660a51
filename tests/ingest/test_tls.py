"""The configuration that stands alone: encrypted, with the same rules as the embedded broker."""

import datetime
import ipaddress
import json
import socket
import subprocess
import time
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from ingest.access import ADMIN, BrokerAccess
from ingest.broker import TlsFiles, write_config
from ingest.parts import find_parts
from ingest.source import MqttSource
from ingest.topics import BrokerAddress, DeviceName
from tests.conftest import free_port
from tests.ingest.test_broker import wait_for


@pytest.fixture
def tls(tmp_path: Path) -> TlsFiles:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "broker.test")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = certificate.public_bytes(serialization.Encoding.PEM)
    (tmp_path / "broker.pem").write_bytes(pem)
    (tmp_path / "broker.key").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return TlsFiles(tmp_path / "broker.pem", tmp_path / "broker.pem", tmp_path / "broker.key")


def test_written_broker_serves_workers_and_access_over_tls(tmp_path: Path, tls: TlsFiles) -> None:
    parts, port, folder = find_parts(tmp_path), free_port(), tmp_path / "broker"
    assert parts is not None
    address = write_config(folder, plugin=parts.plugin, program=parts.program, host="127.0.0.1", port=port, tls=tls)
    broker = subprocess.Popen([str(folder / "start.sh")])
    try:
        wait_for(lambda: listens(port))
        source = MqttSource(address.url, "worker-1", authority=str(tls.authority))
        wait_for(lambda: source.state.is_connected)
        source.close()

        password = json.loads((folder / "secrets.json").read_text())[ADMIN]
        admin = BrokerAddress("127.0.0.1", port, ADMIN, password, "mqtts")
        access = BrokerAccess(admin, authority=str(tls.authority))
        device = DeviceName("9520000000004", "d")
        assert set(access.sync([device])) == {device}
        assert access.devices() == {device}

        stranger = MqttSource(address.url, "worker-2")
        time.sleep(0.5)
        assert not stranger.state.is_connected
        stranger.close()
    finally:
        broker.terminate()
        broker.wait()


def listens(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=0.5):
            return True
    except OSError:
        return False
