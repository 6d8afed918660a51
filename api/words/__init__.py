"""Every sentence that people read, in Chinese and in English, side by side."""

from typing import Final

from api.words import (
    acts,
    alarms,
    bank,
    books,
    cases,
    common,
    consumer,
    credit,
    factory,
    findings,
    mirror,
    places,
    portfolio,
    quarantine,
    reasons,
    refusals,
    terms,
    trace,
)
from core.errors import Broken

LANGUAGES: Final = ("zh", "en")
HTML_LANG: Final = {"zh": "zh-CN", "en": "en"}

CATALOGUE: Final[dict[str, tuple[str, str]]] = {
    **acts.WORDS,
    **alarms.WORDS,
    **common.WORDS,
    **consumer.WORDS,
    **bank.WORDS,
    **books.WORDS,
    **cases.WORDS,
    **credit.WORDS,
    **factory.WORDS,
    **findings.WORDS,
    **mirror.WORDS,
    **places.WORDS,
    **portfolio.WORDS,
    **quarantine.WORDS,
    **reasons.WORDS,
    **refusals.WORDS,
    **terms.WORDS,
    **trace.WORDS,
}


def say(key: str, lang: str, /, **values: object) -> str:
    """The sentence of a key in ``zh`` or ``en``, with its ``{places}`` filled.

    Raises:
        Broken: ``missing_words``: the key is in no catalogue, which a test must find before a reader does.
    """
    pair = CATALOGUE.get(key)
    if pair is None:
        raise Broken(f"No words for {key!r}.", code="missing_words")
    text = pair[0] if lang == "zh" else pair[1]
    return text.format(**values) if values else text


def has_words(key: str) -> bool:
    """Whether the catalogue knows the key."""
    return key in CATALOGUE


def say_code(group: str, code: str, lang: str) -> str:
    """The sentence for a stable code of another module, or the code itself where it is newer than the catalogue."""
    key = f"{group}.{code}"
    return say(key, lang) if key in CATALOGUE else code.replace("_", " ")
