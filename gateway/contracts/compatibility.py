"""Whether readers of a published schema can read what a newer one describes.

Their side decides: a value they were told never to expect breaks them, as does one that no longer comes. What
they need not look at may be added: an optional field, an example, a limit that was not promised before.
"""

import json
from collections.abc import Iterator
from typing import Any

Schema = dict[str, Any]

_MEANING = "description"
_LIMITS = (
    *("format", "pattern", "minLength", "maxLength", "minimum", "maximum", "exclusiveMinimum"),
    *(
        "exclusiveMaximum",
        "multipleOf",
        "minItems",
        "maxItems",
        "uniqueItems",
        "minProperties",
        "maxProperties",
    ),
)
_COMPARED = frozenset(
    {*_LIMITS, _MEANING, "type", "enum", "const", "anyOf", "allOf", "if", "then", "$ref"}
    | {"properties", "required", "additionalProperties", "items"}
)
_REMARKS = frozenset({"$schema", "$id", "$defs", "title", "examples", "$comment"})


def breaks(published: Schema, current: Schema) -> list[str]:
    """What would break a reader of `published` that is given what `current` describes; nothing: none would.

    Raises ValueError for a keyword that cannot be compared.
    """
    return list(_Comparison(published, current).of(published, current, "event"))


class _Comparison:
    def __init__(self, published: Schema, current: Schema) -> None:
        self._published = published
        self._current = current

    def of(self, old: Schema, new: Schema, place: str) -> Iterator[str]:
        """The breaks at one place and inside it."""
        if _words(old) != _words(new):
            yield f"{place}: means something else"
        before, after = _branches(old, self._published), _branches(new, self._current)
        if "any" not in before:
            yield from (f"{place}: may now be {kind}" for kind in after.keys() - before.keys())
        for kind in before.keys() - after.keys() - {"null", "any"}:
            yield f"{place}: is never {kind} any more"
        for kind in before.keys() & after.keys():
            if before[kind] is not old and _words(before[kind]) != _words(after[kind]):
                yield f"{place}: means something else"
            yield from self._same_type(before[kind], after[kind], place)
        yield from self._conditions(old, new, place)

    def _same_type(self, old: Schema, new: Schema, place: str) -> Iterator[str]:
        expected, possible = _values(old), _values(new)
        if expected is not None:
            if possible is None:
                yield f"{place}: may now be anything, not only {', '.join(sorted(expected))}"
            else:
                yield from (f"{place}: may now be {value}" for value in sorted(possible - expected))
                yield from (f"{place}: is never {value} any more" for value in sorted(expected - possible))
        for limit in _LIMITS:
            if limit in old and old[limit] != new.get(limit):
                yield f"{place}: {limit} was {old[limit]} and is {new.get(limit, 'gone')}"
        if old.get("additionalProperties") is False and new.get("additionalProperties") is not False:
            yield f"{place}: may now have fields that were excluded"
        yield from self._fields(old, new, place)
        if "items" in old:
            yield from self.of(old["items"], new.get("items", {}), f"{place}[]")

    def _fields(self, old: Schema, new: Schema, place: str) -> Iterator[str]:
        before, after = old.get("properties", {}), new.get("properties", {})
        needed, given = set(old.get("required", ())), set(new.get("required", ()))
        for name, field in before.items():
            where = f"{place}.{name}"
            if name not in after:
                yield f"{where}: is gone"
                continue
            if name in needed - given:
                yield f"{where}: is not always there any more"
            yield from self.of(field, after[name], where)
        for name in given - before.keys():
            yield f"{place}.{name}: is new, so events stored before lack it; it must be optional"
        for name in needed - before.keys() - given:
            yield f"{place}.{name}: is not always there any more"

    def _conditions(self, old: Schema, new: Schema, place: str) -> Iterator[str]:
        after = {_key(each.get("if")): each for each in new.get("allOf", ())}
        for each in old.get("allOf", ()):
            condition = each.get("if")
            where = f"{place} where {json.dumps(condition)}"
            same = after.get(_key(condition))
            if same is None:
                yield f"{where}: nothing is promised any more"
            else:
                yield from self.of(each.get("then", {}), same.get("then", {}), where)


def _branches(schema: Schema, root: Schema) -> dict[str, Schema]:
    """The schema once for each type that it allows; a schema that names none has one branch, `any`."""
    if unknown := schema.keys() - _COMPARED - _REMARKS:
        raise ValueError(
            f"cannot compare {', '.join(sorted(unknown))}; teach gateway.contracts.compatibility"
        )
    if "$ref" in schema:
        return _branches(_resolve(schema["$ref"], root), root)
    if "anyOf" in schema:
        return {kind: each for one in schema["anyOf"] for kind, each in _branches(one, root).items()}
    if (kinds := schema.get("type")) is None:
        values = _values(schema)
        kinds = ["any"] if values is None else sorted({_type_of(json.loads(value)) for value in values})
    kinds = [kinds] if isinstance(kinds, str) else kinds
    return dict.fromkeys(kinds, schema)


def _resolve(reference: str, root: Schema) -> Schema:
    found: Any = root
    for part in reference.removeprefix("#/").split("/"):
        found = found[part]
    schema: Schema = found
    return schema


def _values(schema: Schema) -> set[str] | None:
    """The values that a schema names, as JSON; None when it allows any. Null is a type, not a value."""
    values = [schema["const"]] if "const" in schema else schema.get("enum")
    return None if values is None else {json.dumps(value) for value in values if value is not None}


def _type_of(value: Any) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return "boolean"
        case int():
            return "integer"
        case float():
            return "number"
        case str():
            return "string"
    return "array" if isinstance(value, list) else "object"


def _words(schema: Schema) -> list[str]:
    return str(schema.get(_MEANING, "")).split()


def _key(condition: Any) -> str:
    return json.dumps(condition, sort_keys=True)
