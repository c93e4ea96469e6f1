"""Where the words that a search found stand in a message.

PostgreSQL marks them in the text as the index sees it: lower case, without accents. Here the marks are
carried over to the text as it was written, so that nothing of the message passes through markup.
"""

from collections.abc import Sequence
from html import escape
from typing import NamedTuple

BEGIN, END = "\x02", "\x03"
CONTEXT = 60  # characters of a snippet before the first hit, and after
LONGEST_SNIPPET = 240
# As the database's fold_accents does, character for character; and what the query blanks out beside it.
_FOLD = str.maketrans("áàâãéêíóôõúüç", "aaaaeeiooouuc", "") | dict.fromkeys(map(ord, "<>-\x02\x03"), " ")


class Hit(NamedTuple):
    """Characters `start` to `end` (not included), in code points."""

    start: int
    end: int


def highlight(text: str | None, headline: str | None) -> Sequence[Hit]:
    """The places of `text` marked in `headline`, its folded form; none when the two do not match."""
    if not text or not headline:
        return ()
    folded, places = _fold(text)
    hits = []
    begin = None
    position = 0
    for character in headline:
        if character == BEGIN:
            begin = position
        elif character == END:
            if begin is not None and position > begin:
                hits.append(Hit(places[begin], places[position]))
            begin = None
        elif position < len(folded) and folded[position] == character:
            position += 1
        else:
            return ()
    return hits


def utf16(text: str, hits: Sequence[Hit]) -> list[Hit]:
    """The same places in UTF-16 code units, in which Telegram and JavaScript count."""
    if text.isascii():
        return list(hits)
    wide = [0]
    for character in text:
        wide.append(wide[-1] + (2 if ord(character) > 0xFFFF else 1))
    return [Hit(wide[hit.start], wide[hit.end]) for hit in hits]


def snippet(text: str, hits: Sequence[Hit]) -> str:
    """The text round the first hits as HTML: all of it escaped, the hits in `<mark>`, no other markup."""
    first = hits[0].start if hits else 0
    start = max(0, first - CONTEXT) if len(text) > LONGEST_SNIPPET else 0
    stop = min(len(text), start + LONGEST_SNIPPET)
    parts = ["…" if start else ""]
    at = start
    for hit in hits:
        if hit.end > stop:
            break
        parts += [escape(text[at : hit.start]), "<mark>", escape(text[hit.start : hit.end]), "</mark>"]
        at = hit.end
    parts += [escape(text[at:stop]), "…" if stop < len(text) else ""]
    return "".join(parts)


def _fold(text: str) -> tuple[str, list[int]]:
    """The folded text, and for each of its characters (and its end) the place it has in `text`."""
    lowered = "".join(low if len(low := character.lower()) == 1 else character for character in text)
    plain = lowered.translate(_FOLD)
    pieces = []
    places: list[int] = []
    at = 0
    while (found := plain.find("oes", at)) >= 0:
        pieces += [plain[at:found], "ao"]
        places += [*range(at, found), found, found + 1]
        at = found + 3
    pieces.append(plain[at:])
    places += range(at, len(plain) + 1)
    return "".join(pieces), places
