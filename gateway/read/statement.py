"""SQL with named parameters, shared parts, and both directions of an order written down once."""

import re
from collections.abc import Mapping
from typing import Any

_NAME = re.compile(r"\$([a-z_]+)")
_DIRECTION = re.compile("≺|⪯|ORDER(?! BY)")
_OLDEST = {"≺": ">", "⪯": ">=", "ORDER": "ASC"}
_NEWEST = {"≺": "<", "⪯": "<=", "ORDER": "DESC"}


class Statement:
    """`$name` stands for a parameter, `{name}` for one of `parts`, which may hold others."""

    def __init__(self, text: str, parts: Mapping[str, str] | None = None) -> None:
        while parts is not None and "{" in text:
            text = text.format_map(parts)
        self.names = tuple(dict.fromkeys(_NAME.findall(text)))
        numbers = {name: f"${number}" for number, name in enumerate(self.names, 1)}
        self.sql = _NAME.sub(lambda match: numbers[match[1]], text)

    def arguments(self, values: Mapping[str, Any]) -> list[Any]:
        """The values in the order of the parameters."""
        return [values[name] for name in self.names]


def ordered(text: str, parts: Mapping[str, str]) -> tuple[Statement, Statement]:
    """The statement for oldest first and the one for newest first: to be indexed with `newest_first`.

    In it ≺ and ⪯ stand for the comparison with a position, ORDER (not before BY) for ASC or DESC.
    """

    def directed(words: Mapping[str, str]) -> Statement:
        turned = {name: _DIRECTION.sub(lambda match: words[match[0]], part) for name, part in parts.items()}
        return Statement(_DIRECTION.sub(lambda match: words[match[0]], text), turned)

    return directed(_OLDEST), directed(_NEWEST)
