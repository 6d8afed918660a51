"""Topic names and broker addresses."""

import pytest

from core.errors import Rejected
from ingest.topics import (
    DeviceName,
    device_name,
    read_broker_url,
    read_broker_urls,
    read_events_topic,
    to_routing_key,
    to_topic,
)

pytestmark = pytest.mark.unit


def test_device_name_escapes_all_but_letters_digits_dash_and_underscore() -> None:
    name = device_name("https://id.gs1.org/417/9520000000004", "https://id.gs1.org/8004/952000A.1%2Fx~y-_")

    assert name.events == "tb/1/9520000000004/952000A%2E1%2Fx%7Ey-_/events"
    assert name.receipts == "tb/1/9520000000004/952000A%2E1%2Fx%7Ey-_/receipts"


def test_topic_leads_back_to_the_ids_of_the_key_record() -> None:
    name = device_name("https://id.gs1.org/417/9520000000004", "https://id.gs1.org/8004/952000A.1%2Fx")

    found = read_events_topic(name.events)

    assert (found.org, found.iss) == (
        "https://id.gs1.org/417/9520000000004",
        "https://id.gs1.org/8004/952000A.1%2Fx",
    )


@pytest.mark.parametrize(
    "topic",
    [
        "tb/1/9520000000004/d/receipts",
        "tb/2/9520000000004/d/events",
        "tb/1/952/d/events",
        "tb/1/9520000000004/a/b/events",
        "tb/1/9520000000004//events",
        "tb/1/9520000000004/a.b/events",
        "tb/1/9520000000004/a%2eb/events",
        "tb/1/+/+/events",
    ],
)
def test_other_topics_are_refused(topic: str) -> None:
    with pytest.raises(Rejected) as refused:
        read_events_topic(topic)

    assert refused.value.code == "bad_topic"


@pytest.mark.parametrize(
    ("org", "iss"), [("x", "https://id.gs1.org/8004/1"), ("https://id.gs1.org/417/9520000000004", "y")]
)
def test_ids_of_another_kind_have_no_topic(org: str, iss: str) -> None:
    with pytest.raises(Rejected):
        device_name(org, iss)


def test_broker_url_is_read_and_written_back() -> None:
    address = read_broker_url("mqtts://9520000000004%2Fdev:p%40ss@broker.example:8884")

    assert (address.username, address.password, address.is_tls) == ("9520000000004/dev", "p@ss", True)
    assert address.url == "mqtts://9520000000004%2Fdev:p%40ss@broker.example:8884"
    assert "p@ss" not in repr(address)


@pytest.mark.parametrize("url", ["http://x", "mqtt://", "mqtt://h:99999", "mqtt://h/path"])
def test_other_urls_are_refused(url: str) -> None:
    with pytest.raises(Rejected):
        read_broker_url(url)


def test_username_is_the_two_topic_levels() -> None:
    assert DeviceName("9520000000004", "d1").username == "9520000000004/d1"


def test_a_cluster_is_named_by_all_its_hosts() -> None:
    found = read_broker_urls("amqps://tb-ingest:p%2Cw@a.example:1,b.example,c.example:3/")

    assert [(one.host, one.port) for one in found] == [("a.example", 1), ("b.example", 5671), ("c.example", 3)]
    assert {(one.username, one.password, one.is_tls) for one in found} == {("tb-ingest", "p,w", True)}


@pytest.mark.parametrize("url", ["amqp://a,,b", "amqp://", "http://a,b", "amqp://" + ",".join("abcdefghijklmnopq")])
def test_a_wrong_list_of_hosts_is_refused(url: str) -> None:
    with pytest.raises(Rejected) as refused:
        read_broker_urls(url)

    assert refused.value.code == "bad_broker_url"


def test_a_topic_goes_through_a_routing_key_and_back() -> None:
    topic = device_name("https://id.gs1.org/417/9520000000004", "https://id.gs1.org/8004/952000A.1%2Fx").events

    assert to_routing_key(topic) == "tb.1.9520000000004.952000A%2E1%2Fx.events"
    assert to_topic(to_routing_key(topic)) == topic
