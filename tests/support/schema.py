"""Is a JSON value as a schema says? As much of JSON Schema as docs/ipvsadm.schema.json uses; another word is an error,
so that nothing in it goes unchecked."""

import re
from collections.abc import Iterator
from typing import Any

_TYPES: dict[str, tuple[type, ...]] = {
    "object": (dict,),
    "array": (list,),
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
}
_WORDS = {
    *("$schema", "$defs", "title", "description", "type", "properties", "required", "additionalProperties", "items"),
    *("oneOf", "enum", "const", "minimum", "maximum", "pattern", "$ref"),
}


def faults(value: Any, schema: Any, root: Any = None, where: str = "$") -> Iterator[str]:
    """What is wrong with a value; nothing if it is as the schema says."""
    root = schema if root is None else root
    if isinstance(schema, bool):
        if not schema:
            yield f"{where} must not be there"
        return
    assert schema.keys() <= _WORDS, f"who checks {schema.keys() - _WORDS}?"
    if "$ref" in schema:
        yield from faults(value, root["$defs"][schema["$ref"].removeprefix("#/$defs/")], root, where)
    if "type" in schema:
        right = isinstance(value, _TYPES[schema["type"]]) and (isinstance(value, bool) <= (schema["type"] == "boolean"))
        if not right:
            yield f"{where} is no {schema['type']}: {value!r}"
            return
    if "const" in schema and value != schema["const"]:
        yield f"{where} is {value!r}, not {schema['const']!r}"
    if "enum" in schema and value not in schema["enum"]:
        yield f"{where} is {value!r}, none of {schema['enum']}"
    if value < schema.get("minimum", value) if isinstance(value, (int, float)) else False:
        yield f"{where} is too small: {value}"
    if value > schema.get("maximum", value) if isinstance(value, (int, float)) else False:
        yield f"{where} is too great: {value}"
    if "pattern" in schema and not re.search(schema["pattern"], value):
        yield f"{where} is {value!r}, not {schema['pattern']}"
    if isinstance(value, dict):
        yield from _members(value, schema, root, where)
    if isinstance(value, list) and "items" in schema:
        for number, item in enumerate(value):
            yield from faults(item, schema["items"], root, f"{where}[{number}]")
    if "oneOf" in schema:
        found = [list(faults(value, one, root, where)) for one in schema["oneOf"]]
        if sum(not each for each in found) != 1:
            yield f"{where} is not as exactly one of: {found}"


def _members(value: dict[str, Any], schema: Any, root: Any, where: str) -> Iterator[str]:
    known = schema.get("properties", {})
    for name in schema.get("required", ()):
        if name not in value:
            yield f"{where}.{name} is missing"
    for name, member in value.items():
        if name in known:
            yield from faults(member, known[name], root, f"{where}.{name}")
        elif not schema.get("additionalProperties", True):
            yield f"{where}.{name} is not described"
