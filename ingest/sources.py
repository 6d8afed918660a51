"""Which adapter reads a source, by the scheme of its URL."""

from ingest.source import MqttSource, Source
from ingest.source_amqp import AmqpSource
from ingest.topics import read_broker_url


def open_source(url: str, client_id: str, *, authority: str | None = None) -> Source:
    """A worker's source: ``mqtt(s)://`` joins the shared subscription, ``amqp(s)://`` the consumers of the queue.

    Args:
        client_id: stable for this worker.
        authority: PEM file of the authority that signed the broker's certificate, where it is not a public one.

    Raises:
        Rejected: ``bad_broker_url``.
    """
    if read_broker_url(url).scheme in ("amqp", "amqps"):
        return AmqpSource(url, client_id, authority=authority)
    return MqttSource(url, client_id, authority=authority)
