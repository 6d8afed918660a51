"""Settings of every process, each from one ``TRACEBOND_*`` variable, each with a sensible default."""

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from core.errors import Rejected

PREFIX = "TRACEBOND_"


class Settings(BaseSettings):
    """What the command and its processes read; nothing else reads the environment."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="ignore")

    data: Path = Field(Path("var"), description="Folder that holds all state: database, chain, keys, broker, logs.")
    database_url: str = Field("", description="postgresql://user:password@host/name; empty: SQLite in the data folder.")
    broker_url: str = Field("", description="mqtt://user:password@host:port or mqtts://; empty: Mosquitto as a child.")
    source: str = Field(
        "",
        description="Where ingest workers read: amqp(s)://user:password@host:port,host:port of a cluster's queue, or "
        "mqtt(s)://; empty: the broker.",
    )
    broker_admin_url: str = Field(
        "", description="mqtt(s)://tb-admin:password@host:port of a Mosquitto whose list of devices we keep in step."
    )
    broker_ca: str = Field(
        "", description="PEM file of the authority that signed the broker's certificate; empty: the system's own."
    )
    resend_s: int = Field(
        30, ge=0, description="Ask a device again for a missing message when it is missing so many seconds; 0: never."
    )
    device_broker_url: str = Field(
        "", description="Address that devices are told to connect to; empty: the broker's own."
    )
    chain_url: str = Field(
        "", description="JSON-RPC of an EVM chain; empty: a persistent eth-tester in the data folder."
    )
    host: str = Field("127.0.0.1", description="Address the web server listens on.")
    port: int = Field(8080, ge=0, le=65535, description="Port of the web server; 0 takes a free one.")
    public_url: str = Field(
        "", description="Address people reach the server by (links, QR codes); empty: host and port."
    )
    service_id: str = Field("tracebond.local", description="Name of this environment; every message names it as aud.")
    log_origin: str = Field("", description="Origin of the log in checkpoints; empty: the service id and /log.")
    operator_gln: str = Field("9526011000019", description="GLN of the organisation that operates this service.")
    checkpoint_s: float = Field(1.0, gt=0, description="Seconds between checkpoints while entries arrive.")
    anchor_s: float = Field(10.0, gt=0, description="Seconds between anchors on the chain while the log grows.")
    anchor_leaves: int = Field(50_000, gt=0, description="Anchor earlier when this many leaves are waiting.")
    promise_s: int = Field(60, gt=0, description="Receipts promise inclusion within this many seconds.")
    heartbeat_s: int = Field(86_400, gt=0, description="A checkpoint is made at least this often, entries or not.")
    quarantine_days: int = Field(
        90, ge=1, le=3_650, description="Days that a message that was not taken stays in the quarantine."
    )
    mirror_keys: str = Field(
        "", description="Verifier keys of mirrors that the pages pin, with spaces between; the reader may pin others."
    )
    key_passphrase: str = Field(
        "", description="Passphrase of the chain keystores; empty: one made up and kept beside them, mode 600."
    )
    pkcs11_module: str = Field(
        "", description="Path of the PKCS#11 library that holds the chain keys (needs the extra hsm); empty: keystores."
    )
    pkcs11_token: str = Field("", description="Label of the token in that library.")
    pkcs11_pin_file: str = Field("", description="File, mode 600, that holds the token's user PIN.")
    fee_cap_gwei: int = Field(500, gt=0, description="Most that is ever offered per gas; above it chain_txs wait.")
    finality_depth: int = Field(
        0, ge=0, le=10_000, description="Blocks on top of a block that make it final; 0: the chain's finalized block."
    )
    secure_cookies: bool = Field(False, description="Send session cookies over https only.")
    webhook_private: bool = Field(
        False, description="Let subscriptions report to http, any port and private addresses: tests, closed networks."
    )
    findings_policy: str = Field(
        "", description="TOML file with severities and bounds of the rules; empty: ledger/findings_policy.toml."
    )
    disk_free_min_mb: int = Field(
        512, ge=1, description="Intake and capture stop while the disk under the data folder has fewer MiB free."
    )
    log_level: str = Field("info", description="debug, info, warning or error.")
    log_format: Literal["text", "json"] = Field("text", description="Log lines for people (text) or machines (json).")
    log_messages: bool = Field(
        True,
        description="Name every message's id in the log lines of ingest and checkpoints; off where rates are high.",
    )
    metrics_port: int = Field(
        0, ge=0, le=65535, description="Port of /metrics of an ingest, sequence or follow process; 0: none."
    )

    @field_validator("log_level")
    @classmethod
    def _known_level(cls, value: str) -> str:
        if value not in ("debug", "info", "warning", "error"):
            raise ValueError("log_level is debug, info, warning or error")
        return value

    @property
    def origin(self) -> str:
        """The log's origin."""
        return self.log_origin or f"{self.service_id}/log"

    @property
    def database(self) -> str:
        """The database's URL, SQLite in the data folder when none is set."""
        return self.database_url or f"sqlite:///{self.data.absolute() / 'tracebond.db'}"

    @property
    def url(self) -> str:
        """The public address without a slash at its end."""
        return (self.public_url or f"http://{self.host}:{self.port}").rstrip("/")


def load_settings(**given: Any) -> Settings:
    """The settings of the environment, with what the command line gave on top (None means not given).

    Raises:
        Rejected: ``bad_setting`` naming the variable and its rule.
    """
    try:
        return Settings(**{name: value for name, value in given.items() if value is not None})
    except ValidationError as error:
        first = error.errors()[0]
        name = PREFIX + str(first["loc"][0]).upper()
        raise Rejected(f"{name}: {first['msg']}.", code="bad_setting", pointer=name) from error


def describe() -> list[tuple[str, str, str]]:
    """(variable, default, meaning) of each setting, in a useful order."""
    rows = []
    for name, info in Settings.model_fields.items():
        default = "(empty)" if info.default == "" else str(info.default)
        rows.append((PREFIX + name.upper(), default, info.description or ""))
    return rows
