"""The operations of the OpenAPI document, and the request that each one's examples make."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import httpx

from gateway.api.app import create_app
from gateway.settings import Settings

PUBLIC = {"health", "ready", "metrics"}  # all other operations need a token
STREAMS = "text/event-stream"


@dataclass(frozen=True)
class Operation:
    """One operation; `document` is the whole OpenAPI document."""

    document: dict[str, Any]
    path: str
    method: str
    spec: dict[str, Any]

    def __str__(self) -> str:
        return str(self.spec["operationId"])

    @property
    def scopes(self) -> set[str]:
        """The scopes that it declares."""
        return {
            scope for each in self.spec.get("security", ()) for scopes in each.values() for scope in scopes
        }

    @property
    def streams(self) -> bool:
        """Whether its answer goes on for as long as somebody listens."""
        return STREAMS in self.spec["responses"].get("200", {}).get("content", {})

    def request(self, client: httpx.AsyncClient) -> httpx.Request:
        """The request with every parameter's and the body's first example."""
        path, query, headers = self.path, {}, {}
        for parameter in self.spec.get("parameters", ()):
            example = self._example(parameter, parameter["schema"])
            if example is None:
                assert not parameter.get("required"), f"{self}: {parameter['name']} needs an example"
                continue
            text = {True: "true", False: "false"}.get(example) if isinstance(example, bool) else example
            if parameter["in"] == "path":
                path = path.replace(f"{{{parameter['name']}}}", str(text))
            elif parameter["in"] == "query":
                query[parameter["name"]] = text
            elif parameter.get("required"):
                headers[parameter["name"]] = str(text)
        body = self.spec.get("requestBody")
        content = body["content"]["application/json"] if body else None
        json = (self._example(content, content["schema"]) or {}) if content else None
        return client.build_request(self.method.upper(), path, params=query, headers=headers, json=json)

    def _example(self, holder: dict[str, Any], schema: dict[str, Any]) -> Any:
        if "example" in holder:
            return holder["example"]
        if examples := holder.get("examples"):
            return next(iter(examples.values()))["value"]
        return self._schema_example(schema)

    def _schema_example(self, schema: dict[str, Any]) -> Any:
        if reference := schema.get("$ref"):
            schema = self.document["components"]["schemas"][reference.rpartition("/")[2]]
        if examples := schema.get("examples"):
            return examples[0]
        if "properties" in schema:
            found = {name: self._schema_example(value) for name, value in schema["properties"].items()}
            return {name: value for name, value in found.items() if value is not None} or None
        if schema.get("type") == "array" and (item := self._schema_example(schema["items"])) is not None:
            return [item]
        for choice in schema.get("anyOf", ()):
            if (found := self._schema_example(choice)) is not None:
                return found
        return None


def operations() -> Iterator[Operation]:
    """All of them, in the document's order."""
    document = create_app(Settings()).openapi()
    for path, methods in document["paths"].items():
        for method, spec in methods.items():
            yield Operation(document, path, method, spec)
