"""Parts are stopped for real, and the alerts that tell of it fire in Prometheus and go when they are back.

The shipped configuration and rules, looked at every two seconds instead of 15, each `for:` divided by 60.
Unscaled, for every part: `make alerts`, whose table is in docs/slo.md.
"""

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.monitoring import outages
from tests.monitoring.outages import Outage, suffer
from tests.monitoring.watched import Watched, watched

HURRY = 60.0
PATIENCE_SECONDS = 240.0


@pytest_asyncio.fixture(scope="module")
async def it(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Watched]:
    async with watched(tmp_path_factory.mktemp("watched"), interval="2s", hurry=HURRY) as running:
        yield running


async def test_while_all_is_well_only_the_dead_mans_alert_fires(it: Watched) -> None:
    await it.prometheus.wait_alert("Watchdog")
    # Beside it only this one: the seconds before the first scrape are much of so young a Prometheus's hour.
    others = 'ALERTS{alertname!~"Watchdog|ErrorBudgetBurn"}'
    await it.prometheus.wait_query(others, until=lambda found: not found)


@pytest.mark.parametrize(
    "outage",
    [outages.GATEWAY, outages.REDIS_ALONE, outages.RABBITMQ_ALONE, outages.API],
    ids=lambda outage: outage.part,
)
async def test_the_alert_of_a_part_that_stops_fires_and_goes_when_it_is_back(
    it: Watched, outage: Outage
) -> None:
    await suffer(it, outage, PATIENCE_SECONDS)


async def test_a_dead_session_is_told_of_although_the_daemon_is_gone_and_not_restarted(it: Watched) -> None:
    await suffer(it, outages.SESSION, PATIENCE_SECONDS)


async def test_an_alert_says_which_and_where_to_read_on(it: Watched) -> None:
    await it.worker.kill()
    await it.prometheus.wait_alert("ConsumerDown", within=PATIENCE_SECONDS)
    (alert,) = [alert for alert in await it.prometheus.alerts() if alert.name == "ConsumerDown"]
    assert alert.annotations["summary"] == f"TP Capital at {it.worker.address} does not answer."
    assert alert.annotations["runbook_url"] == "docs/runbooks/ConsumerDown.md"
