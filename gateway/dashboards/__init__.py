"""The Grafana dashboards as code: `python -m gateway.dashboards` writes them to deploy/grafana."""

import json
from typing import Final

from grafana_foundation_sdk.cog.encoder import JSONEncoder

from gateway.dashboards import database, mtproto, overview, rabbitmq, redis, slo
from gateway.localstack.stack import CONFIG_DIR

DIRECTORY: Final = CONFIG_DIR / "grafana" / "dashboards"
_BOARDS: Final = {
    "overview": overview.board,
    "database": database.board,
    "redis": redis.board,
    "rabbitmq": rabbitmq.board,
    "mtproto": mtproto.board,
    "slo": slo.board,
}


def build() -> dict[str, str]:
    """Each dashboard's file name and text."""
    return {
        f"{name}.json": json.dumps(board().build(), cls=JSONEncoder, indent=1, ensure_ascii=False) + "\n"
        for name, board in _BOARDS.items()
    }
