"""Links of a GS1 key at each of its levels, and which of them a request asks for: pure.

Source: GS1-Conformant resolver standard 1.0 (its 38 criteria are tests), RFC 9264 (linksets).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import quote

from api.language import from_accept_language
from core.gs1_link import read_link
from core.identifiers import parse
from core.percent import percent_encoded

Pairs = tuple[tuple[str, str], ...]

VOC: Final = "https://gs1.org/voc/"
LINK_TYPES: Final = ("pip", "traceability", "recallStatus", "epcis")
CONTEXT: Final = "/.well-known/gs1resolver-context.jsonld"


@dataclass(frozen=True)
class Link:
    """One link of a level: the GS1 link type (without prefix) and its attributes."""

    rel: str
    href: str
    title: str
    hreflang: str = ""
    type: str = ""


@dataclass(frozen=True)
class Level:
    """A key with some of its qualifiers: the path of its Digital Link and its canonical id."""

    path: str
    id: str

    def links(self, base: str) -> list[Link]:
        """Every link of this level, the default first, without attributes; all its kinds are described again."""
        page, data = f"{base}/page{self.path}", f"{base}/items/{quote(self.id, safe='')}"
        return [
            Link("defaultLink", page, "History of these goods"),
            Link("traceability", page + "?lang=en", "History of these goods", "en", "text/html"),
            Link("traceability", page + "?lang=zh-CN", "商品履历", "zh", "text/html"),
            Link("traceability", data, "History of these goods as data", "en", "application/json"),
            Link("pip", page + "?lang=en", "About these goods", "en", "text/html"),
            Link("pip", page + "?lang=zh-CN", "商品信息", "zh", "text/html"),
            Link("recallStatus", page + "?lang=en", "Recall status of these goods", "en", "text/html"),
            Link("recallStatus", page + "?lang=zh-CN", "召回状态", "zh", "text/html"),
        ]


def pairs_of(path: str) -> Pairs | None:
    """The GS1 key and qualifiers of a request path (still percent-encoded), in the order given.

    Raises:
        Rejected: ``bad_identifier``, ``bad_check_digit`` or ``compressed_link``.
    """
    return read_link("https://id.gs1.org" + path)


def levels(pairs: Pairs) -> list[Level]:
    """The levels of a path from the one asked for up to its primary key."""
    found: list[Level] = []
    for end in range(len(pairs), 0, -1):
        path = "".join(f"/{ai}/{percent_encoded(value)}" for ai, value in pairs[:end])
        found.append(Level(path, parse("https://id.gs1.org" + path).canonical))
    return found


def linkset(found: Sequence[Level], base: str, description: str) -> dict[str, Any]:
    """The RFC 9264 document over all levels; the subject is always the uncompressed link."""
    contexts: list[dict[str, Any]] = []
    for level in found:
        context: dict[str, Any] = {"anchor": base + level.path, "itemDescription": description}
        for link in level.links(base):
            entry: dict[str, Any] = {"href": link.href, "title": link.title}
            if link.hreflang:
                entry["hreflang"] = [link.hreflang]
            if link.type:
                entry["type"] = link.type
            context.setdefault(VOC + link.rel, []).append(entry)
        contexts.append(context)
    return {"linkset": contexts}


def choose(level: Level, base: str, *, link_type: str, accept: str, accept_language: str) -> Link | None:
    """The link a request asks for, or None where there is none of the type.

    Args:
        link_type: name without its prefix; "" asks for the default.
    """
    links = level.links(base)
    if link_type in ("", "defaultLink"):
        return links[0]
    of_type = [link for link in links if link.rel == link_type]
    if not of_type:
        return None
    if "application/json" in accept and "text/html" not in accept:
        of_type = [link for link in of_type if link.type == "application/json"] or of_type
    lang = from_accept_language(accept_language)
    return next((link for link in of_type if link.hreflang == lang), of_type[0])


def link_type_of(text: str) -> str:
    """The name of a link type from ``gs1:pip``, a full address of the vocabulary, or the bare name."""
    for prefix in ("gs1:", VOC, "https://ref.gs1.org/voc/", "http://gs1.org/voc/"):
        if text.startswith(prefix):
            return text.removeprefix(prefix)
    return text


def headers(found: Sequence[Level], base: str) -> dict[str, str]:
    """The ``Link`` header that leads to the linkset, to its JSON-LD context, and names the uncompressed link."""
    own = base + found[0].path
    links = (
        f'<{own}?linkType=linkset>; rel="linkset"; type="application/linkset+json"',
        f'<{base}{CONTEXT}>; rel="http://www.w3.org/ns/json-ld#context"; type="application/ld+json"',
        f'<{own}>; rel="owl:sameAs"',
    )
    return {"Link": ", ".join(links), "Vary": "Accept, Accept-Language"}
