"""`telegram-gateway api`: the REST API."""

from functools import partial

import click

from gateway.api import metrics
from gateway.api.server import serve
from gateway.cli.service import run_service
from gateway.last_exit import LastExits
from gateway.logs import configure_logging
from gateway.settings import load_settings


@click.command(name="api")
def command() -> int:
    """Serve messages, processing state, channels and the gateway's state over HTTP (TELEGRAM_API_ADDR)."""
    settings = load_settings()
    configure_logging(settings.log_level)
    metrics.REGISTRY.register(LastExits(settings.runtime_dir))
    return run_service(partial(serve, settings))
