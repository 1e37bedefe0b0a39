"""GET /docs: every route of the server, made from its OpenAPI description.

The usual pages for such a description load their scripts from other sites and run inline ones, which the policy of this
server forbids. This one is plain HTML with the style of the story page, works offline, and its curl lines work as they
stand against the host that it was opened from.
"""

import json
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

from fastapi import FastAPI, Request
from fastapi.responses import HTMLResponse
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from tinystories.server.admission import AdmissionController
from tinystories.server.events import LARGEST_SEED


BEGINNING = "Once upon a time"
BODIES: dict[str, dict[str, Any]] = {  # of the examples, besides the model
    "/generate": {"prompt": BEGINNING, "max_tokens": 40, "seed": 1},
    "/v1/completions": {"prompt": BEGINNING, "max_tokens": 40, "seed": 1},
    "/v1/chat/completions": {"messages": [{"role": "user", "content": BEGINNING}], "seed": 1},
}
LIMITS = {"maxItems": "at most {}", "maxProperties": "at most {}"}  # of JSON Schema, as words
RANGES = {
    ("minimum", "maximum"): "{} to {}",
    ("exclusiveMinimum", "maximum"): "above {}, at most {}",
    ("minLength", "maxLength"): "{} to {} characters",
}


@dataclass(frozen=True)
class Row:
    """A field of an object; kind: its type, bounds and default; inner: the fields of the objects in it."""

    name: str
    kind: str
    text: str
    inner: list["Row"] = field(default_factory=list)


@dataclass(frozen=True)
class Route:
    method: str
    path: str
    text: str
    example: str
    body: list[Row]
    answer: list[Row]
    errors: dict[str, str]

    @property
    def anchor(self) -> str:
        """Of a link to it."""
        return re.sub(r"[^a-z0-9]+", "-", f"{self.method} {self.path}".lower()).strip("-")


def add_reference(app: FastAPI, admission: AdmissionController) -> None:
    @app.get("/docs", include_in_schema=False)
    async def reference(request: Request) -> HTMLResponse:
        base, model = str(request.base_url).rstrip("/"), admission.engine.pool.default
        return HTMLResponse(page(app.openapi(), base, model))


def page(description: dict[str, Any], base: str, model: str) -> str:
    """base: address of the server, for the examples; model: the name of one of its models. Every value is escaped."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates", encoding="utf-8"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["code"] = code
    found = list(routes(description, base, model))
    return environment.get_template("reference.html").render(
        routes=found, base=base, model=model, version=description["info"]["version"]
    )


def code(text: str) -> Markup:
    """Escaped, and what is between backticks as code."""
    parts = str(escape(text)).split("`")
    return Markup("".join(f"<code>{part}</code>" if i % 2 else part for i, part in enumerate(parts)))


def routes(description: dict[str, Any], base: str, model: str) -> Iterator[Route]:
    """Those of stories first, then those that answer GET; each in the order of the description."""
    operations = [
        (method.upper(), path, operation)
        for path, methods in description["paths"].items()
        for method, operation in methods.items()
    ]
    schemas = description["components"]["schemas"]
    for method, path, operation in sorted(operations, key=lambda each: each[0] != "POST"):
        body = operation.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema")
        answers = operation["responses"]
        good = answers["200"].get("content", {}).get("application/json", {}).get("schema", {})
        yield Route(
            method,
            path,
            " ".join(operation.get("description", operation["summary"]).split()),
            example(method, path, base, model, needs_model="model" in required(body, schemas)),
            rows(body, schemas) if body else [],
            rows(good, schemas) if "$ref" in good else [],
            {status: answer["description"] for status, answer in answers.items() if status != "200"},
        )


def example(method: str, path: str, base: str, model: str, needs_model: bool) -> str:
    """A curl line."""
    address = base + path.replace("{name}", quote(model, safe="/"))
    if method == "GET":
        return f"curl {shlex.quote(address)}"
    body = json.dumps({**({"model": model} if needs_model else {}), **BODIES[path]}, ensure_ascii=False)
    return f"curl {shlex.quote(address)} \\\n  -H 'Content-Type: application/json' \\\n  -d {shlex.quote(body)}"


def required(schema: dict[str, Any] | None, schemas: dict[str, Any]) -> list[str]:
    return resolved(schema, schemas).get("required", []) if schema else []


def resolved(schema: dict[str, Any], schemas: dict[str, Any]) -> dict[str, Any]:
    return schemas[schema["$ref"].rpartition("/")[2]] if "$ref" in schema else schema


def rows(schema: dict[str, Any], schemas: dict[str, Any]) -> list[Row]:
    """The fields of an object, the required ones first."""
    found = resolved(schema, schemas)
    needed, fields = found.get("required", []), found.get("properties", {})
    return [
        Row(
            name,
            ", ".join(filter(None, [kind(fields[name]), "required" if name in needed else default_of(fields[name])])),
            fields[name].get("description", ""),
            [row for each in objects(fields[name]) for row in rows(each, schemas)],
        )
        for name in sorted(fields, key=lambda each: each not in needed)
    ]


def objects(schema: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The references in a schema to those of other objects."""
    if "$ref" in schema:
        yield schema
    for inner in (*schema.get("anyOf", []), schema.get("items")):
        if isinstance(inner, dict):
            yield from objects(inner)


def kind(schema: dict[str, Any]) -> str:
    """Type and bounds in words. null, which is the same as leaving a field out, is not listed beside other types."""
    if "anyOf" in schema:
        kinds = dict.fromkeys(kind(each) for each in schema["anyOf"] if each.get("type") != "null")
        return " or ".join(kinds)
    if "enum" in schema or "const" in schema:
        return " or ".join(json.dumps(each) for each in schema.get("enum", [schema.get("const")]))
    if "$ref" in schema:
        return "object"
    limits = [words.format(bound(schema[name])) for name, words in LIMITS.items() if name in schema]
    for (low, high), words in RANGES.items():
        if low in schema and high in schema:
            limits.append(words.format(bound(schema[low]), bound(schema[high])))
    if schema.get("type") == "array":
        inner = kind(schema.get("items", {})).partition(",")[0]
        return ", ".join([f"list of {inner}" if inner else "list", *limits])
    return ", ".join([schema.get("type", ""), *limits])


def bound(value: float) -> str:
    """With commas, but for the largest seed, which is shown as it is typed."""
    if value == LARGEST_SEED:
        return str(LARGEST_SEED)
    return f"{int(value) if value == int(value) else value:,}"


def default_of(schema: dict[str, Any]) -> str:
    value = schema.get("default")
    return "" if value is None else f"default {json.dumps(value)}"
