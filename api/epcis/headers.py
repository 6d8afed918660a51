"""The headers of the EPCIS 2.0 REST binding: versions and how they are agreed on, formats, limits.

Source: GS1 EPCIS 2.0.1, section 12.5, and its OpenAPI description.
"""

import re
from collections.abc import Mapping
from typing import Final, Literal, TypeVar

from starlette.requests import HTTPConnection

from core.errors import Rejected

EPCIS_VERSION: Final = "2.0"
CBV_VERSION: Final = "2.0"
VENDOR_VERSION: Final = "tracebond-1"
# Chosen by us: a capture of this size is decided and committed within seconds.
CAPTURE_EVENTS_MAX: Final = 10_000
CAPTURE_BYTES_MAX: Final = 16_777_216

EpcFormat = Literal["No_Preference", "Always_GS1_Digital_Link", "Always_EPC_URN", "Never_Translates"]
CbvFormat = Literal["No_Preference", "Always_Web_URI", "Always_URN", "Never_Translates"]
ErrorBehaviour = Literal["rollback", "proceed"]
_T = TypeVar("_T", bound=str)

_EPC_FORMATS: Final[tuple[EpcFormat, ...]] = (
    "No_Preference",
    "Always_GS1_Digital_Link",
    "Always_EPC_URN",
    "Never_Translates",
)
_CBV_FORMATS: Final[tuple[CbvFormat, ...]] = ("No_Preference", "Always_Web_URI", "Always_URN", "Never_Translates")
_VERSION = re.compile(r"([0-9]{1,4})(?:\.([0-9]{1,4})(?:\.[0-9]{1,4})?)?\Z")


class NotAcceptable(Rejected):
    """None of the versions or forms asked for is spoken here."""

    code = "not_acceptable"


# On every answer of the interface.
ANSWER_HEADERS: Final[Mapping[str, str]] = {
    "GS1-EPCIS-Version": EPCIS_VERSION,
    "GS1-CBV-Version": CBV_VERSION,
    "GS1-Vendor-Version": VENDOR_VERSION,
}
# On OPTIONS, and on 406 so that the client learns what it may ask for.
VERSION_HEADERS: Final[Mapping[str, str]] = {
    **ANSWER_HEADERS,
    "GS1-EPCIS-Min": EPCIS_VERSION,
    "GS1-EPCIS-Max": EPCIS_VERSION,
    "GS1-CBV-Min": CBV_VERSION,
    "GS1-CBV-Max": CBV_VERSION,
}
LIMIT_HEADERS: Final[Mapping[str, str]] = {
    "GS1-EPCIS-Capture-Limit": str(CAPTURE_EVENTS_MAX),
    "GS1-EPCIS-Capture-File-Size-Limit": str(CAPTURE_BYTES_MAX),
    # The names of the first edition of the OpenAPI description; some clients read these.
    "GS1-Capture-Limit": str(CAPTURE_EVENTS_MAX),
    "GS1-Capture-File-Size-Limit": str(CAPTURE_BYTES_MAX),
}


def negotiate(connection: HTTPConnection) -> None:
    """Return if the versions that the request names or allows include the one spoken here.

    Raises:
        NotAcceptable: they do not. Rejected: ``bad_version`` for what is no version.
    """
    for family, spoken in (("EPCIS", EPCIS_VERSION), ("CBV", CBV_VERSION)):
        ours = _version(spoken, "")
        named = connection.headers.get(f"GS1-{family}-Version")
        if named is not None and _version(named, f"GS1-{family}-Version") != ours:
            raise NotAcceptable(f"{family} {named} is not spoken here; {spoken} is.", pointer=f"GS1-{family}-Version")
        least = connection.headers.get(f"GS1-{family}-Min")
        if least is not None and _version(least, f"GS1-{family}-Min") > ours:
            raise NotAcceptable(f"The newest {family} spoken here is {spoken}.", pointer=f"GS1-{family}-Min")
        most = connection.headers.get(f"GS1-{family}-Max")
        if most is not None and _version(most, f"GS1-{family}-Max") < ours:
            raise NotAcceptable(f"The oldest {family} spoken here is {spoken}.", pointer=f"GS1-{family}-Max")


def epc_format(connection: HTTPConnection) -> EpcFormat:
    """In which form the client wants identifiers.

    Raises:
        Rejected: ``bad_header``.
    """
    # Without the header identifiers are Digital Links, as the OpenAPI description says.
    name = "GS1-EPC-Format"
    return _choice(connection.headers.get(name, "Always_GS1_Digital_Link"), _EPC_FORMATS, name)


def cbv_format(connection: HTTPConnection) -> CbvFormat:
    """In which form the client wants CBV terms in XML.

    Raises:
        Rejected: ``bad_header``.
    """
    return _choice(connection.headers.get("GS1-CBV-XML-Format", "No_Preference"), _CBV_FORMATS, "GS1-CBV-XML-Format")


def error_behaviour(connection: HTTPConnection) -> ErrorBehaviour:
    """What a capture does when an event of it is refused.

    Raises:
        Rejected: ``bad_header``.
    """
    given = connection.headers.get("GS1-Capture-Error-Behaviour", "rollback")
    return _choice(given, ("rollback", "proceed"), "GS1-Capture-Error-Behaviour")


def discovery_headers(path: str) -> dict[str, str]:
    """What OPTIONS says about a path below ``/epcis`` besides the methods."""
    found = dict(VERSION_HEADERS)
    if not path.startswith("/epcis/queries") or path.endswith("/events"):
        found["GS1-EPC-Format"] = ", ".join(_EPC_FORMATS)
        found["GS1-CBV-XML-Format"] = ", ".join(_CBV_FORMATS)
    if path in ("/epcis/capture", "/epcis/events"):
        found |= LIMIT_HEADERS
    if path == "/epcis/capture":
        found["GS1-Capture-Error-Behaviour"] = "rollback, proceed"
    return found


def _choice(given: str, known: tuple[_T, ...], name: str) -> _T:
    for value in known:
        if given == value:
            return value
    raise Rejected(f"{name} is one of {', '.join(known)}.", code="bad_header", pointer=name)


def _version(text: str, name: str) -> tuple[int, int]:
    match = _VERSION.match(text.strip())
    if match is None:
        raise Rejected(f"{name} is a version such as 2.0.", code="bad_version", pointer=name)
    return int(match[1]), int(match[2] or 0)
