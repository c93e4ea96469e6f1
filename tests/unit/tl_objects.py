"""Random Telegram objects of any constructor, made from Telethon's classes: whatever the schema allows.

Nothing in Telethon says how wide an integer is or which fields go together, but how each class writes itself
does, so that is where it is read from.
"""

import functools
import inspect
import re
import typing
from dataclasses import dataclass
from datetime import UTC, datetime
from random import Random
from typing import Any

from telethon.extensions import BinaryReader
from telethon.tl import TLObject, alltlobjects, types

_DEPTH = 4  # objects inside objects; below it only what must be there
_TEXTS = (
    "",
    "COMPRA PETR4: 25,50",
    "a\0b\0",
    "\\u0000",
    "👍🏽 👨‍👩‍👧 🇧🇷",
    "\u202e\ufffe\uffff\x01\x1f\x7f\u2028",
    "ação" * 80,
)
_LAST_GROUP = 999_999_999_999
_LAST_CHANNEL = 997_852_516_352
_WIDTH = re.compile(r"struct\.pack\('<(\w)', (?:self\.(\w+)\)|x\) for x in self\.(\w+))")
_TOGETHER = re.compile(r"'([\w, ]+) parameters must all be False-y")


@dataclass(frozen=True, slots=True)
class _Shape:
    """What a constructor takes: its fields' types, which are optional or go together, and widths."""

    fields: dict[str, Any]
    optional: tuple[str, ...]
    widths: dict[str, str]
    together: tuple[tuple[str, ...], ...]


def constructors(prefix: str) -> list[type[TLObject]]:
    """All constructors whose name starts so."""
    return [getattr(types, name) for name in sorted(vars(types)) if name.startswith(prefix)]


def wire(value: Any) -> Any:
    """The object as a client gets it: written, and read back."""
    return BinaryReader(bytes(value)).tgread_object()


def make(constructor: Any, chance: Random, **fields: Any) -> Any:
    """One object of this constructor with `fields`, and the others as chance has it."""
    return _make(constructor, chance, _DEPTH, fields)


def _make(constructor: Any, chance: Random, depth: int, given: dict[str, Any]) -> Any:
    if constructor is types.PeerUser:
        return types.PeerUser(chance.randint(1, 2**42))
    if constructor is types.PeerChat:
        return types.PeerChat(chance.randint(1, _LAST_GROUP))
    if constructor is types.PeerChannel:
        return types.PeerChannel(chance.randint(1, _LAST_CHANNEL))
    shape = _shape(constructor)
    left_out = {name for name in shape.optional if chance.random() < (0.4 if depth > 0 else 1.0)}
    for names in shape.together:
        if left_out & set(names) and not set(names) & set(given):
            left_out |= set(names)
    made = dict(given)
    for name, hint in shape.fields.items():
        if name in given:
            continue
        if name in left_out:
            made[name] = None
        else:
            made[name] = _value(hint, shape.widths.get(name, "i"), chance, depth)
    return constructor(**made)


def _value(hint: Any, width: str, chance: Random, depth: int) -> Any:
    choices = [one for one in typing.get_args(hint) or (hint,) if one is not type(None)]
    if typing.get_origin(hint) is list:
        (item,) = typing.get_args(hint)
        return [
            _value(item, width, chance, depth - 1) for _ in range(chance.randint(0, 2 if depth > 0 else 0))
        ]
    if len(choices) == 1 and typing.get_origin(choices[0]) is not None:
        return _value(choices[0], width, chance, depth)
    kind = chance.choice(choices)
    if kind is bool:
        return True
    if kind is int:
        return _integer(width, chance)
    if kind is float:
        return chance.choice([0.0, -23.5505, 1e300, float("inf"), float("nan")])
    if kind is str:
        return chance.choice(_TEXTS)
    if kind is bytes:
        return chance.randbytes(chance.randint(0, 5))
    if kind is datetime:
        return datetime.fromtimestamp(chance.choice([0, 1_700_000_000, chance.getrandbits(31)]), UTC)
    if depth <= 0:
        choices = sorted(choices, key=_weight)[:1]
    return _make(chance.choice(choices), chance, depth - 1, {})


def _integer(width: str, chance: Random) -> int:
    bits = 63 if width == "q" else 31
    choices: list[int] = [0, 1, 2**bits - 1, -(2**bits), chance.getrandbits(bits)]
    return chance.choice(choices)


def _weight(constructor: Any) -> int:
    """How much an object of this constructor holds at least: the lightest ends a recursion."""
    shape = _shape(constructor)
    return len(shape.fields) - len(shape.optional)


@functools.cache
def _shape(constructor: Any) -> _Shape:
    writes = inspect.getsource(constructor._bytes)
    hints = typing.get_type_hints(constructor.__init__, _names())
    fields = {
        name: hints[name]
        for name in inspect.signature(constructor.__init__).parameters
        if name != "self" and f"self.{name}" in writes
    }
    widths = {one or many: width for width, one, many in _WIDTH.findall(writes)}
    together = tuple(tuple(names.split(", ")) for names in _TOGETHER.findall(writes))
    optional = tuple(name for name in fields if f"self.{name} is None or" in writes)
    return _Shape(fields, optional, widths, together)


@functools.cache
def _names() -> dict[str, Any]:
    """The types that Telethon's annotations name, from all its modules."""
    names: dict[str, Any] = {}
    for constructor in alltlobjects.tlobjects.values():
        module = inspect.getmodule(constructor)
        names.update((name, one) for name, one in vars(module).items() if name.startswith("Type"))
        names.setdefault(f"Type{constructor.__name__}", constructor)  # of a type with one constructor only
    return names | vars(typing)
