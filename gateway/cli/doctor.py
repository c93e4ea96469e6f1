"""`telegram-gateway doctor`: checks everything the daemon stands on."""

import asyncio
import logging

import click

from gateway.doctor import examine
from gateway.errors import EXIT_NEEDS_OPERATOR
from gateway.logs import configure_logging, redact
from gateway.settings import Settings, load_settings


@click.command(name="doctor")
def command() -> int:
    """Check configuration, files, servers, versions and clocks. Exits 0 only if all hold, else 78."""
    settings = load_settings()
    configure_logging("ERROR")
    logging.disable()  # the libraries' own complaints: each is a finding already
    return 0 if asyncio.run(_report(settings)) else EXIT_NEEDS_OPERATOR


async def _report(settings: Settings) -> bool:
    sound = True
    async for finding in examine(settings):
        mark = click.style("ok  ", fg="green") if finding.ok else click.style("FAIL", fg="red")
        click.echo(f"{mark} {finding.check}: {redact(finding.detail)}")
        sound = sound and finding.ok
    return sound
