"""Tokens: who gets in, for how long, and what happens while the servers behind them are down."""

from tests.api.conftest import Api


async def test_metrics_need_no_token(api: Api) -> None:
    answer = await api.client_with(None).get("/metrics")
    assert answer.status_code == 200
    assert "telegram_gateway_api_requests_total" in answer.text
