"""docs/api.md from the code: `python -m journeyman.serve.describe docs/api.md`. A test compares the two."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from journeyman.serve.app import admin_routes, api_routes

Schema = Mapping[str, Any]
INTRODUCTION = """# API

Written by `python -m journeyman.serve.describe docs/api.md`; [serve.md](serve.md) says what it is for. The same as
OpenAPI is at `/openapi.json`. Fields without a description are OpenAI's own. Errors have OpenAI's shape:
`{"error": {"message", "type", "param", "code"}}`.
"""


def page() -> str:
    """The whole page."""
    return INTRODUCTION + "".join(_application(app.openapi()) for app in (api_routes(), admin_routes()))


def _application(schema: Schema) -> str:
    schemas: Schema = schema.get("components", {}).get("schemas", {})
    parts = [f"\n## {schema['info']['title']}\n\n{schema['info']['description']}\n"]
    used: list[str] = []
    for path, methods in schema["paths"].items():
        for method, operation in sorted(methods.items(), reverse=True):
            parts.append(_operation(f"{method.upper()} {path}", operation, used))
    for name in used:  # grows as schemas name others
        parts.append(_schema(name, schemas[name], used))
    return "".join(parts)


def _operation(name: str, operation: Schema, used: list[str]) -> str:
    text = f"\n### {name}\n\n{operation.get('description', '')}\n"
    rows = [(p["name"], f"{p['in']}: {_type(p['schema'], used)}", _said(p)) for p in operation.get("parameters", ())]
    if rows:
        text += _table(("parameter", "type", ""), rows)
    body = operation.get("requestBody")
    if body:
        text += f"\nBody: {_type(body['content']['application/json']['schema'], used)}\n"
    good = next(status for status in operation["responses"] if status.startswith("2"))
    kinds = operation["responses"][good].get("content", {})
    answers = [_type(kind["schema"], used) if kind.get("schema") else f"`{name}`" for name, kind in kinds.items()]
    bad = ", ".join(sorted(status for status in operation["responses"] if not status.startswith("2")))
    return text + f"\n{good}: {' or '.join(answers)}. Errors: {bad or 'none'}.\n"


def _schema(name: str, schema: Schema, used: list[str]) -> str:
    needed = schema.get("required", ())
    rows = [
        (field, _type(of, used) + ("" if field in needed else f", {_default(of)}"), _said(of))
        for field, of in schema.get("properties", {}).items()
    ]
    return f"\n### {name}\n\n{schema.get('description', '')}\n{_table(('field', 'type', ''), rows) if rows else ''}"


def _table(head: tuple[str, ...], rows: list[tuple[str, str, str]]) -> str:
    lines = [f"| {' | '.join(head)} |", "| --- | --- | --- |"]
    lines += [f"| {field} | {kind} | {said} |" for field, kind, said in rows]
    return "\n" + "\n".join(lines) + "\n"


def _said(of: Schema) -> str:
    return of.get("description", "").replace("\n", " ").replace("|", "\\|")


def _default(of: Schema) -> str:
    default = of.get("default")
    return "optional" if default in (None, [], {}, "") else f"default {default}"


def _type(of: Schema, used: list[str]) -> str:
    """A schema in words; other schemas that it names are noted, to be described."""
    return " or ".join(dict.fromkeys(_types(of, used)))


def _types(of: Schema, used: list[str]) -> Iterator[str]:
    if "$ref" in of:
        name = of["$ref"].rsplit("/", 1)[1]
        if name not in used:
            used.append(name)
        yield f"[{name}](#{name.lower()})"
    elif "anyOf" in of:
        for one in of["anyOf"]:
            yield from _types(one, used)
    elif "enum" in of or "const" in of:
        yield ", ".join(f"`{value}`" for value in of.get("enum", [of.get("const")]))
    elif of.get("type") == "array":
        yield f"list of {_type(of.get('items', {}), used)}"
    else:
        bounds = [
            f"{sign} {of[key]}"
            for key, sign in (("minimum", "≥"), ("exclusiveMinimum", ">"), ("maximum", "≤"), ("exclusiveMaximum", "<"))
            if key in of
        ]
        yield " ".join([of.get("type", "anything"), *bounds])


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(page())
