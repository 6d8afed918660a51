"""The trace as one picture, drawn on the server: origin on the left, the goods asked about, holders on the right."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Final

from markupsafe import Markup

from api.drawing.svg import number, picture, tag
from api.items_trace import Names, class_of_or_self
from api.language import show_number
from api.words import say
from core.identifiers import parse
from ledger.lineage import Holding, Thing, Trace
from ledger.massbalance import PIECES, Amount

_WIDTH, _HEIGHT, _GAP_X, _GAP_Y = 190, 52, 56, 16
_ROWS_MAX: Final = 12
_CHARS: Final = 21


@dataclass
class _Node:
    key: str
    column: int
    title: str
    note: str
    tone: str
    count: int = 0
    amount: Decimal = Decimal(0)
    uom: str = ""
    x: float = 0
    y: float = 0
    full: str = ""
    ids: list[str] = field(default_factory=list)


def draw(back: Trace, forward: Trace, rows: Sequence[Holding], names: Names, lang: str) -> Markup:
    """The picture of both directions around one thing; what does not fit into a column is counted at its foot."""
    nodes, node_of = _nodes(back, forward, names, lang)
    edges = _edges(back, forward, node_of)
    last = max((node.column for node in nodes.values()), default=0) + 1
    for place, row in enumerate(rows):
        key = f"holder {place}"
        state = say(f"trace.state_{row.state}", lang)
        note = " · ".join(part for part in (names.place(row.place), state) if part)
        tone = {"sold": "warn", "gone": "gone", "used": "gone"}.get(row.state, "held")
        nodes[key] = _Node(key, last, names.org(row.org), note, tone, full=row.org, count=row.count)
        for item in row.items:
            source = node_of.get(item)
            if source is not None:
                edges[source, key] = edges.get((source, key), 0) + 1
    return _render(list(nodes.values()), edges, lang)


def _nodes(back: Trace, forward: Trace, names: Names, lang: str) -> tuple[dict[str, _Node], dict[str, str]]:
    nodes: dict[str, _Node] = {}
    node_of: dict[str, str] = {}
    deepest = max((thing.depth for thing in back.things if not thing.is_carrier), default=0)
    sides = [(thing, deepest - thing.depth) for thing in back.things]
    sides += [(thing, deepest + thing.depth) for thing in forward.things if thing.depth > 0]
    for thing, column in sides:
        if thing.is_carrier or thing.kind == "uri" or thing.id in node_of:
            continue
        is_start = thing.id == back.start
        key = thing.id if is_start or thing.kind == "lgtin" else f"{column} {thing.kind} {class_of_or_self(thing.id)}"
        node_of[thing.id] = key
        node = nodes.get(key)
        if node is None:
            title = names.thing(thing.id) or _code(thing.id)
            tone = "start" if is_start else "goods" if column > deepest else "raw"
            node = nodes[key] = _Node(key, column, title, "", tone, full=thing.id)
        _count(node, thing)
    for node in nodes.values():
        node.note = _note(node, lang)
    return nodes, node_of


def _count(node: _Node, thing: Thing) -> None:
    node.count += 1
    node.ids.append(thing.id)
    amount = thing.made or Amount(thing.id, Decimal(1))
    if amount.quantity is not None and node.uom in ("", amount.uom):
        node.amount, node.uom = node.amount + amount.quantity, amount.uom


def _note(node: _Node, lang: str) -> str:
    text = f"{show_number(node.amount, lang)} {'' if node.uom == PIECES else node.uom}".strip()
    if node.count == 1:
        values = dict(parse(node.ids[0]).ai)
        code = values.get("10") or values.get("21") or values.get("00") or ""
        return " · ".join(part for part in (code, text if node.uom else "") if part)
    return f"× {text}"


def _edges(back: Trace, forward: Trace, node_of: Mapping[str, str]) -> dict[tuple[str, str], int]:
    edges: dict[tuple[str, str], int] = {}
    for link in (*back.links, *forward.links):
        source, target = node_of.get(link.source), node_of.get(link.target)
        if source and target and source != target and not (link.is_withdrawn or link.is_suspect):
            edges[source, target] = edges.get((source, target), 0) + 1
    return edges


def _render(nodes: list[_Node], edges: Mapping[tuple[str, str], int], lang: str) -> Markup:
    columns: dict[int, list[_Node]] = {}
    for node in nodes:
        columns.setdefault(node.column, []).append(node)
    order = sorted(columns)
    shown = {column: sorted(columns[column], key=lambda one: -one.count)[:_ROWS_MAX] for column in order}
    rows = max((len(part) for part in shown.values()), default=1) + 1
    height = rows * (_HEIGHT + _GAP_Y) + _GAP_Y
    width = len(order) * (_WIDTH + _GAP_X) - _GAP_X + 2
    content: list[Markup] = []
    for place, column in enumerate(order):
        left_out = len(columns[column]) - len(shown[column])
        top = (height - (len(shown[column]) + (left_out > 0)) * (_HEIGHT + _GAP_Y) + _GAP_Y) / 2
        for row, node in enumerate(shown[column]):
            node.x, node.y = 1 + place * (_WIDTH + _GAP_X), top + row * (_HEIGHT + _GAP_Y)
        if left_out > 0:
            x, y = 1 + place * (_WIDTH + _GAP_X) + _WIDTH / 2, top + len(shown[column]) * (_HEIGHT + _GAP_Y) + 18
            words = say("trace.more_items", lang, count=left_out)
            content.append(tag("text", words, x=x, y=y, text_anchor="middle", class_="graph-note"))
    placed = {node.key: node for part in shown.values() for node in part}
    lines = [_edge(placed[a], placed[b]) for a, b in edges if a in placed and b in placed]
    boxes = [_box(node) for part in shown.values() for node in part]
    title, description = say("trace.graph", lang), say("trace.graph_words", lang)
    return picture(round(width), round(height), title, description, [*lines, *content, *boxes], "graph")


def _edge(source: _Node, target: _Node) -> Markup:
    first, second = (source, target) if source.x <= target.x else (target, source)
    x1, y1, x2, y2 = first.x + _WIDTH, first.y + _HEIGHT / 2, second.x, second.y + _HEIGHT / 2
    middle = (x1 + x2) / 2
    points = (x1, y1, middle, y1, middle, y2, x2, y2)
    text = "M{},{} C{},{} {},{} {},{}".format(*(number(point) for point in points))
    return tag("path", d=text, class_="graph-edge")


def _box(node: _Node) -> Markup:
    inner = [
        tag("title", f"{node.title} {node.note} {node.full}"),
        tag("rect", x=node.x, y=node.y, width=_WIDTH, height=_HEIGHT, rx=6, class_=f"graph-box {node.tone}"),
        tag("text", _cut(node.title), x=node.x + 12, y=node.y + 21, class_="graph-title"),
        tag("text", _cut(node.note, 4), x=node.x + 12, y=node.y + 39, class_="graph-note"),
    ]
    return tag("g", Markup("").join(inner))


def _cut(text: str, more: int = 0) -> str:
    """The text as far as it fits; a Chinese character takes the room of two."""
    room = _CHARS + more
    for place, char in enumerate(text):
        room -= 2 if ord(char) > 0x2E80 else 1
        if room < 1 and place < len(text) - 1:
            return text[:place] + "…"
    return text


def _code(identifier: str) -> str:
    return "".join(f"({ai}){value}" for ai, value in parse(identifier).ai) or identifier
