"""Links of a GS1 key at each of its levels, and which of them a request asks for: pure.

Source: GS1-Conformant resolver standard 1.0 (its criteria are tests in tests/conformance), RFC 9264 (linksets).
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import quote, urlsplit

from core.gs1_link import read_link
from core.identifiers import parse
from core.percent import percent_encoded

Pairs = tuple[tuple[str, str], ...]

VOC: Final = "https://gs1.org/voc/"
CONTEXT: Final = "/.well-known/gs1resolver-context.jsonld"
# What this resolver can offer by itself; master data may add any other link type of the GS1 Web vocabulary.
LINK_TYPES: Final = ("defaultLink", "defaultLinkMulti", "pip", "traceability", "recallStatus", "epcis",
                     "certificationInfo", "hasRetailers")  # fmt: skip
MANAGED_MAX: Final = 100  # ours: links of one level taken from master data
_PREFIXES: Final = ("gs1:", VOC, "https://ref.gs1.org/voc/", "http://gs1.org/voc/", "https://www.gs1.org/voc/")


@dataclass(frozen=True)
class Link:
    """One link of a level: the GS1 link type (without prefix) and its attributes."""

    rel: str
    href: str
    title: str
    hreflang: tuple[str, ...] = ()
    type: str = ""
    context: tuple[str, ...] = ()


@dataclass(frozen=True)
class Level:
    """A key with some of its qualifiers: the path of its Digital Link and its canonical id."""

    path: str
    id: str


@dataclass(frozen=True)
class Known:
    """What is recorded about a level: its name, whether events name it, links of its master data, its certificates."""

    level: Level
    name: str = ""
    has_events: bool = False
    managed: tuple[Link, ...] = ()
    certificates: tuple[str, ...] = ()

    def links(self, base: str) -> list[Link]:
        """Every link of this level, the default first, without attributes; all its kinds are described again."""
        page, data = f"{base}/page{self.level.path}", f"{base}/items/{quote(self.level.id, safe='')}"
        english, chinese = page + "?lang=en", page + "?lang=zh-CN"
        html, both = "text/html", ("en", "zh")
        found = [
            Link("defaultLink", page, "History of these goods"),
            Link("defaultLinkMulti", english, "History of these goods", ("en",), html),
            Link("defaultLinkMulti", chinese, "商品履历", ("zh",), html),
            Link("pip", page, "About these goods", both, html),
            Link("pip", english, "About these goods", ("en",), html),
            Link("pip", chinese, "商品信息", ("zh",), html),
            Link("traceability", english, "History of these goods", ("en",), html),
            Link("traceability", chinese, "商品履历", ("zh",), html),
            Link("recallStatus", english, "Recall status of these goods", ("en",), html),
            Link("recallStatus", chinese, "召回状态", ("zh",), html),
        ]
        if self.has_events:
            found += [
                Link("defaultLinkMulti", data, "History of these goods as data", both, "application/json"),
                Link("traceability", data, "History of these goods as data", both, "application/json"),
                Link("recallStatus", data, "Recall status as data", both, "application/json"),
                Link("epcis", f"{base}/epcis/events?MATCH_anyEPC={quote(self.level.id, safe='')}",
                     "EPCIS 2.0 events (partners)", both, "application/json"),
            ]  # fmt: skip
        found += [Link("certificationInfo", href, f"Certificate {_name(href)}") for href in self.certificates]
        return [*found, *self.managed]


def levels(pairs: Pairs) -> list[Level]:
    """The levels of a path from the one asked for up to its primary key."""
    found: list[Level] = []
    for end in range(len(pairs), 0, -1):
        path = "".join(f"/{ai}/{percent_encoded(value)}" for ai, value in pairs[:end])
        found.append(Level(path, parse("https://id.gs1.org" + path).canonical))
    return found


def pairs_of(path: str) -> Pairs | None:
    """The GS1 key and qualifiers of a request path (still percent-encoded), in the order given.

    Raises:
        Rejected: ``bad_identifier``, ``bad_check_digit`` or ``compressed_link``.
    """
    return read_link("https://id.gs1.org" + path)


def managed_links(fact: Mapping[str, Any]) -> tuple[Link, ...]:
    """The links that master data adds (member ``links``); those without address, type or title are left out.

    Each is {"rel": GS1 link type, "href", "title", "hreflang": [..], "type": media type, "context": [..]}, the last
    three optional.
    """
    rows = fact.get("links")
    found: list[Link] = []
    for row in rows[:MANAGED_MAX] if isinstance(rows, list) else ():
        if not isinstance(row, Mapping):
            continue
        rel, href, title = (str(row.get(name, "")) for name in ("rel", "href", "title"))
        rel = link_type_of(rel)
        if rel.isalpha() and is_web(href) and title:
            languages, context = _texts(row.get("hreflang")), _texts(row.get("context"))
            found.append(Link(rel, href, title, languages, str(row.get("type", "")), context))
    return tuple(found)


def certificates_of(events: Iterable[Mapping[str, Any]]) -> tuple[str, ...]:
    """The web addresses of certificates that events name, each once."""
    found: dict[str, None] = {}
    for event in events:
        value = event.get("certificationInfo")
        for text in value if isinstance(value, list) else [value]:
            if isinstance(text, str) and is_web(text):
                found[text] = None
    return tuple(found)


def is_web(text: str) -> bool:
    """Whether a text is an http(s) address with a host."""
    try:
        parts = urlsplit(text)
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and bool(parts.hostname) and text.isascii() and " " not in text


def linkset(found: Sequence[Known], base: str) -> dict[str, Any]:
    """The RFC 9264 document over all levels; the subject is always the uncompressed link."""
    contexts: list[dict[str, Any]] = []
    for known in found:
        context: dict[str, Any] = {
            "anchor": base + known.level.path,
            "itemDescription": known.name or known.level.path,
        }
        for link in known.links(base):
            entry: dict[str, Any] = {"href": link.href, "title": link.title}
            if link.hreflang:
                entry["hreflang"] = list(link.hreflang)
            if link.type:
                entry["type"] = link.type
            if link.context:
                entry["context"] = list(link.context)
            context.setdefault(VOC + link.rel, []).append(entry)
        contexts.append(context)
    return {"linkset": contexts}


@dataclass(frozen=True)
class Asked:
    """What a request says about the link it wants: link type without prefix ("" for the default), headers, context."""

    link_type: str = ""
    accept: str = ""
    accept_language: str = ""
    context: str = ""


def choose(found: Sequence[Known], base: str, asked: Asked) -> Link | None:
    """The link a request asks for, from the finest level that has one of the type; None where no level has one."""
    is_default = asked.link_type in ("", "defaultLink", "defaultLinkMulti")
    for known in found:
        links = known.links(base)
        if is_default:
            better = _best([link for link in links if link.rel == "defaultLinkMulti"], asked, is_strict=True)
            return better or links[0]
        of_type = [link for link in links if link.rel == asked.link_type]
        if of_type:
            return _best(of_type, asked, is_strict=False)
    return None


def link_type_of(text: str) -> str:
    """The name of a link type from ``gs1:pip``, a full address of the vocabulary, or the bare name."""
    for prefix in _PREFIXES:
        if text.startswith(prefix):
            return text.removeprefix(prefix)
    return text


def headers(found: Sequence[Level], base: str) -> dict[str, str]:
    """The ``Link`` header that leads to the linkset, to its JSON-LD context, and names the uncompressed link."""
    own = base + found[0].path
    links = (
        f'<{own}?linkType=linkset>; rel="linkset"; type="application/linkset+json"; anchor="{own}"',
        f'<{base}{CONTEXT}>; rel="http://www.w3.org/ns/json-ld#context"; type="application/ld+json"',
        f'<{own}>; rel="owl:sameAs"',
    )
    return {"Link": ", ".join(links), "Vary": "Accept, Accept-Language"}


def _best(links: Sequence[Link], asked: Asked, *, is_strict: bool) -> Link | None:
    """The link that fits context, media type and language best; the first one where the request says nothing.

    Args:
        is_strict: give None unless the request says something that a link fits.
    """
    kinds, languages = qualities(asked.accept), qualities(asked.accept_language)
    says_kind = any(kind not in ("*/*", "") for kind in kinds)
    chosen: tuple[tuple[float, float, float, float], Link] | None = None
    for link in links:
        context = 1.0 if asked.context and asked.context in link.context else 0.5 if not link.context else 0.0
        kind = _fits(link.type, kinds, ("/*", "*/*")) if says_kind else 0.5
        language = max((_fits(one, languages, ()) for one in link.hreflang), default=0.0)
        if is_strict and not ((says_kind and kind > 0 and link.type != "text/html") or language > 0):
            continue
        # Of two that fit, the one made for this language alone.
        score = (context, kind, language, 1 / len(link.hreflang) if language > 0 else 0.0)
        if chosen is None or score > chosen[0]:
            chosen = (score, link)
    return None if chosen is None else chosen[1]


def qualities(header: str) -> dict[str, float]:
    """What an ``Accept`` or ``Accept-Language`` header names, each with its quality (RFC 9110, 12.4.2)."""
    found: dict[str, float] = {}
    for part in header.split(",")[:30]:
        name, *parameters = (piece.strip() for piece in part.split(";"))
        quality = 1.0
        for parameter in parameters:
            if parameter.startswith("q="):
                try:
                    quality = min(1.0, max(0.0, float(parameter[2:])))
                except ValueError:
                    quality = 0.0
        if name and quality > 0:
            found[name.lower()] = max(quality, found.get(name.lower(), 0.0))
    return found


def _fits(value: str, named: Mapping[str, float], wide: tuple[str, ...]) -> float:
    if not value:
        return 0.1
    value = value.lower()
    exact = [quality for name, quality in named.items() if name == value or name.split("-")[0] == value.split("-")[0]]
    if exact and not wide:
        return max(exact)
    if value in named:
        return named[value]
    if not wide:
        return 0.0
    kind = value.split("/")[0] + "/*"
    return max(named.get(kind, 0.0) * 0.9, named.get("*/*", 0.0) * 0.5)


def _texts(value: Any) -> tuple[str, ...]:
    rows = value if isinstance(value, list) else [value]
    return tuple(row for row in rows if isinstance(row, str) and row)


def _name(href: str) -> str:
    return urlsplit(href).path.rstrip("/").rpartition("/")[2] or urlsplit(href).netloc
