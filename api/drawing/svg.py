"""A small SVG writer: numbers with one decimal, attributes escaped, no inline style (the CSP forbids it)."""

from markupsafe import Markup, escape


def number(value: float) -> str:
    """A coordinate with at most one decimal."""
    text = f"{value:.1f}"
    return text[:-2] if text.endswith(".0") else text


def tag(name: str, content: Markup | str | None = None, /, **attributes: object) -> Markup:
    """One element; ``class_`` and ``stroke_width`` become ``class`` and ``stroke-width``."""
    parts = [Markup("<"), Markup(name)]  # noqa: S704 - names are ours
    for key, value in attributes.items():
        text = number(value) if isinstance(value, float) else str(value)
        parts.append(Markup(' {}="{}"').format(key.rstrip("_").replace("_", "-"), text))
    if content is None:
        parts.append(Markup("/>"))
    else:
        parts += [Markup(">"), escape(content), Markup("</"), Markup(name), Markup(">")]  # noqa: S704 - as above
    return Markup("").join(parts)


def path_of(points: list[tuple[float, float]], *, is_closed: bool = False) -> str:
    """The ``d`` of a line through points."""
    steps = " ".join(f"{number(x)},{number(y)}" for x, y in points)
    return f"M{steps}{'Z' if is_closed else ''}"


def picture(width: int, height: int, title: str, description: str, content: list[Markup], class_: str) -> Markup:
    """The whole picture with its words for readers who do not see it."""
    inner = Markup("").join([tag("title", title), tag("desc", description), *content])
    return tag(
        "svg",
        inner,
        xmlns="http://www.w3.org/2000/svg",
        viewBox=f"0 0 {width} {height}",
        role="img",
        class_=class_,
    )
