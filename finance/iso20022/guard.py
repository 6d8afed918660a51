"""What an XML body must be before any schema code sees it: small, shallow, UTF-8, without DTD or entities."""

import xml.parsers.expat
from typing import Final

from core.errors import Rejected

BYTES_MAX: Final = 1_048_576  # ours: about a thousand notifications; the size that our web server takes as well
DEPTH_MAX: Final = 24  # ours: the deepest path of the messages we read has 14 elements
ELEMENTS_MAX: Final = 100_000
TEXT_MAX: Final = 4_096  # ours: above the longest text type of these messages


def guard_xml(data: bytes, *, bytes_max: int = BYTES_MAX) -> tuple[str, str]:
    """The namespace and name of the root of a body that may be parsed.

    The size is looked at first, then expat walks once over the text and refuses at the first forbidden thing: a DTD is
    refused where it begins, so no entity is ever defined or expanded (external entities, "billion laughs").

    Raises:
        Rejected: ``too_large``, ``dtd_refused``, ``too_deep``, ``too_many_elements``, ``bad_xml``.
    """
    if len(data) > bytes_max:
        raise Rejected(f"The body has {len(data)} bytes; at most {bytes_max} are taken.", code="too_large")
    try:
        data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise Rejected("Send XML 1.0 in UTF-8.", code="bad_xml") from error
    if b"\x00" in data:
        raise Rejected("Send XML 1.0 in UTF-8.", code="bad_xml")
    walk = _Walk()
    # The encoding is ours, whatever the declaration says: no second reading of the same bytes.
    parser = xml.parsers.expat.ParserCreate("utf-8", " ")
    parser.StartElementHandler = walk.start
    parser.EndElementHandler = walk.end
    parser.CharacterDataHandler = walk.text
    parser.XmlDeclHandler = walk.declaration
    parser.StartDoctypeDeclHandler = walk.refuse_dtd
    parser.EntityDeclHandler = walk.refuse_dtd
    parser.ProcessingInstructionHandler = walk.refuse_instruction
    try:
        parser.Parse(data, True)
    except xml.parsers.expat.ExpatError as error:
        raise Rejected(f"This is no well-formed XML: {error}", code="bad_xml") from error
    namespace, _, name = walk.root.rpartition(" ")
    return namespace, name


class _Walk:
    def __init__(self) -> None:
        self.root = ""
        self._depth, self._elements, self._length = 0, 0, 0

    def start(self, name: str, attributes: dict[str, str]) -> None:
        self.root = self.root or name
        self._depth += 1
        self._elements += 1
        self._length = 0
        if self._depth > DEPTH_MAX:
            raise Rejected(f"The XML nests deeper than {DEPTH_MAX}.", code="too_deep")
        if self._elements > ELEMENTS_MAX:
            raise Rejected(f"The XML has more than {ELEMENTS_MAX} elements.", code="too_many_elements")
        if any(len(value) > TEXT_MAX for value in attributes.values()):
            raise Rejected("An attribute is too long.", code="bad_xml")

    def end(self, name: str) -> None:
        self._depth -= 1
        self._length = 0

    def text(self, data: str) -> None:
        self._length += len(data)
        if self._length > TEXT_MAX:
            raise Rejected(f"An element holds more than {TEXT_MAX} characters.", code="bad_xml")

    def declaration(self, version: str, encoding: str | None, standalone: int) -> None:
        if version != "1.0" or (encoding is not None and encoding.lower() != "utf-8"):
            raise Rejected("Send XML 1.0 in UTF-8.", code="bad_xml")

    def refuse_dtd(self, *_: object) -> None:
        raise Rejected("A document type declaration is refused: send the message without one.", code="dtd_refused")

    def refuse_instruction(self, *_: object) -> None:
        raise Rejected("A processing instruction is refused.", code="bad_xml")
