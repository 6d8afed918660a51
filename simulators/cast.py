"""Who and what plays in a scenario: organisations, places, products, devices and who owns what."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from core.identifiers import giai_id, org_id
from simulators.keys import Gtin, Key, Spelling, asset, gln, party, place

CITIES: dict[str, tuple[float, float]] = {
    "Qiqihar": (47.3543, 123.9182),
    "Daqing": (46.5898, 125.1036),
    "Harbin": (45.8038, 126.5350),
    "Changchun": (43.8171, 125.3235),
    "Shenyang": (41.8057, 123.4315),
    "Tangshan": (39.6309, 118.1802),
    "Tianjin": (39.0842, 117.2009),
    "Beijing": (39.9042, 116.4074),
    "Jinan": (36.6512, 117.1201),
    "Xuzhou": (34.2058, 117.2848),
    "Nanjing": (32.0603, 118.7969),
    "Shanghai": (31.2304, 121.4737),
}
"""Latitude and longitude of city centres, degrees (WGS 84)."""


@dataclass(frozen=True)
class Organisation:
    """An organisation of the story; every name says that it is made up.

    Attributes:
        name: short handle, unique in the cast.
        prefix: its seven-digit GS1 company prefix, under the demonstration prefix 952.
        role: maker, inspector, custodian, carrier, retailer, lender, regulator or operator.
        spelling: how it writes identifiers.
    """

    name: str
    prefix: str
    role: str
    name_en: str
    name_zh: str
    spelling: Spelling

    @property
    def gln(self) -> str:
        """Its 13-digit GLN."""
        return gln(self.prefix, 1)

    @property
    def key(self) -> Key:
        """Its GLN as a party."""
        return party(self.prefix)

    @property
    def id(self) -> str:
        """Its canonical id, the ``org`` of messages and records."""
        return org_id(self.gln)


@dataclass(frozen=True)
class Place:
    """A site or a spot inside one, at the coordinates of a real city.

    Attributes:
        name: short handle; org: handle of the organisation that runs it.
    """

    name: str
    org: str
    key: Key
    name_en: str
    name_zh: str
    city: str
    address: str

    @property
    def id(self) -> str:
        """Its canonical id (AI 414)."""
        return self.key.id

    @property
    def coordinates(self) -> tuple[float, float]:
        """Latitude and longitude in degrees."""
        return CITIES[self.city]


@dataclass(frozen=True)
class Product:
    """A kind of goods.

    Attributes:
        unit: UN/ECE code of the unit in which it is counted (EA pieces, KGM kilograms).
        shelf_life_days: from production to expiry.
    """

    name: str
    org: str
    gtin: Gtin
    name_en: str
    name_zh: str
    category: str
    shelf_life_days: int
    unit: str

    @property
    def id(self) -> str:
        """Its canonical id (AI 01)."""
        return self.gtin.kind().id


@dataclass(frozen=True)
class DeviceSpec:
    """A device to enrol.

    Attributes:
        name: short handle, also its folder's name.
        org: handle of its organisation.
        reference: the GIAI behind the company prefix.
        kind: production, inspection, warehouse, logistics or retail.
        place: handle of the place where it stands, "" for one that moves.
        steps: the business steps it may report.
        products: handles of the products it may name, none for any.
    """

    name: str
    org: str
    reference: str
    kind: str
    place: str
    name_en: str
    name_zh: str
    steps: tuple[str, ...]
    products: tuple[str, ...] = ()


@dataclass(frozen=True)
class Ownership:
    """An organisation says who owns a thing: canonical id of the thing, handle of the owner."""

    subject: str
    owner: str


@dataclass(frozen=True)
class Cast:
    """Everybody and everything that must be registered before the first message."""

    organisations: tuple[Organisation, ...]
    places: tuple[Place, ...]
    products: tuple[Product, ...]
    devices: tuple[DeviceSpec, ...]
    ownership: tuple[Ownership, ...] = field(default=())

    @cached_property
    def _named(self) -> dict[str, dict[str, Any]]:
        # A fleet has thousands of devices: look up by handle, do not search.
        kinds = ("organisations", "places", "products", "devices")
        return {kind: {each.name: each for each in getattr(self, kind)} for kind in kinds}

    def organisation(self, name: str) -> Organisation:
        """The organisation with this handle."""
        return self._named["organisations"][name]  # type: ignore[no-any-return]

    def place(self, name: str) -> Place:
        """The place with this handle."""
        return self._named["places"][name]  # type: ignore[no-any-return]

    def product(self, name: str) -> Product:
        """The product with this handle."""
        return self._named["products"][name]  # type: ignore[no-any-return]

    def device(self, name: str) -> DeviceSpec:
        """The device with this handle."""
        return self._named["devices"][name]  # type: ignore[no-any-return]

    def device_key(self, name: str) -> Key:
        """The device's GIAI."""
        spec = self.device(name)
        return asset(self.organisation(spec.org).prefix, spec.reference)

    def giai(self, name: str) -> str:
        """The device's GIAI without markup, as in its topic."""
        spec = self.device(name)
        return self.organisation(spec.org).prefix + spec.reference

    def iss(self, name: str) -> str:
        """The device's canonical id, the ``iss`` of its messages."""
        return giai_id(self.giai(name))

    def scope(self, name: str) -> dict[str, Any]:
        """The ``scope`` of the device's key record; members that do not limit are absent."""
        spec = self.device(name)
        scope: dict[str, Any] = {"steps": sorted(spec.steps)}
        if spec.products:
            scope["products"] = sorted(self.product(product).id for product in spec.products)
        if spec.place:
            site = self.place(spec.place).id.split("/254/")[0]
            scope["places"] = sorted(each.id for each in self.places if each.id.split("/254/")[0] == site)
        return scope

    def master_facts(self) -> Iterator[tuple[str, str, str, dict[str, Any]]]:
        """What the ``master`` records say: (handle of the organisation that signs, subject, fact, value)."""
        for org in self.organisations:
            yield (
                org.name,
                org.id,
                "party",
                {"name_en": org.name_en, "name_zh": org.name_zh, "role": org.role},
            )
        for spot in self.places:
            latitude, longitude = spot.coordinates
            value = {"name_en": spot.name_en, "name_zh": spot.name_zh, "address": spot.address}
            # Records hold no fractions (RFC 8785 bytes of integers only): coordinates are decimal text.
            yield spot.org, spot.id, "place", value | {"lat": f"{latitude:.4f}", "lon": f"{longitude:.4f}"}
        for product in self.products:
            names: dict[str, Any] = {"name_en": product.name_en, "name_zh": product.name_zh}
            rest = {"category": product.category, "shelf_life_days": product.shelf_life_days, "unit": product.unit}
            yield product.org, product.id, "product", names | rest
        for owned in self.ownership:
            owner = self.organisation(owned.owner)
            yield owned.owner, owned.subject, "ownership", {"owner": owner.id}


def site(name: str, org: Organisation, reference: int, *, extension: str = "", **words: str) -> Place:
    """A place of an organisation; ``words`` are name_en, name_zh, city and address."""
    return Place(name, org.name, place(org.prefix, reference, extension), **words)
