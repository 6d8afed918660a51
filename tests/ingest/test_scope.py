"""A key's scope holds whatever way an event names a product."""

import pytest

from core.crypto import P256Private
from core.errors import Rejected
from core.message import issue, open_message, split
from ingest.scope import check_scope

OURS = {"products": ["https://id.gs1.org/01/09521000123458"]}
KEY = P256Private.from_secret(b"scope")


@pytest.mark.unit
@pytest.mark.parametrize(
    ("members", "is_allowed"),
    [
        ({"epcList": ["urn:epc:id:sgtin:9521000.012345.1"]}, True),
        ({"epcList": ["urn:epc:id:sgtin:9521000.098765.1"]}, False),
        ({"quantityList": [{"epcClass": "urn:epc:class:lgtin:9521000.012345.L1", "quantity": 5}]}, True),
        ({"quantityList": [{"epcClass": "urn:epc:class:lgtin:9521000.098765.L1", "quantity": 5}]}, False),
        ({"quantityList": [{"epcClass": "https://id.gs1.org/01/09521000123458", "quantity": 5}]}, True),
        ({"quantityList": [{"epcClass": "https://id.gs1.org/01/09521000987654", "quantity": 5}]}, False),
        ({"epcList": ["urn:epc:id:sscc:9521000.0000000001"]}, True),
    ],
)
def test_a_product_outside_the_scope_is_refused_by_serial_lot_or_class(
    members: dict[str, object], is_allowed: bool
) -> None:
    event = {
        "type": "ObjectEvent", "action": "OBSERVE", "eventTime": "2025-10-09T08:00:00Z",
        "eventTimeZoneOffset": "+00:00", "bizStep": "inspecting",
    }  # fmt: skip
    publish = issue(
        [event | members], aud="a", org="o", iss="i", iat=1, seq=0, prev=None, key=KEY, salts=lambda: bytes(16)
    )
    message = open_message(split(publish), KEY.public)

    if is_allowed:
        check_scope(message, OURS)
    else:
        with pytest.raises(Rejected, match="out_of_scope"):
            check_scope(message, OURS)
