"""`python -m gateway.contracts`: writes the published documents, or checks that they are current."""

import json
import sys
from pathlib import Path
from typing import Any

import click

import gateway
from gateway.contracts import asyncapi_document, event_schema
from gateway.event import SCHEMA_VERSION

DIRECTORY = Path(gateway.__file__).resolve().parents[1] / "docs" / "contracts"


def documents() -> dict[str, str]:
    """What is published: each file's name and text."""
    return {
        f"event-v{SCHEMA_VERSION}.schema.json": _text(event_schema()),
        f"asyncapi-v{SCHEMA_VERSION}.json": _text(asyncapi_document()),
    }


@click.command()
@click.option("--check", is_flag=True, help="Write nothing; exit 1 when a file is not what the code says.")
@click.argument("directory", default=DIRECTORY, type=click.Path(file_okay=False, path_type=Path))
def main(check: bool, directory: Path) -> None:
    """Write the JSON Schema of the event and the AsyncAPI document to DIRECTORY (docs/contracts)."""
    stale = [
        name
        for name, text in documents().items()
        if not (path := directory / name).exists() or path.read_text() != text
    ]
    if check:
        for name in stale:
            click.echo(
                f"{directory / name} is not what the code says; run: python -m gateway.contracts", err=True
            )
        sys.exit(1 if stale else 0)
    for name in stale:
        (directory / name).write_text(documents()[name])
        click.echo(f"wrote {directory / name}")


def _text(document: dict[str, Any]) -> str:
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    main()
