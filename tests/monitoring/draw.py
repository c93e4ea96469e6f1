"""Draws dashboards into docs/images: `python -m tests.monitoring.draw`. It needs no Grafana, and is none.

Runs everything that is monitored for some minutes, asks Prometheus what the panels ask, and has Chromium
take a picture of the page that comes of it.
"""

import argparse
import asyncio
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from playwright.async_api import Browser

from tests.console.conftest import running_browser
from tests.monitoring.drawing import Series, legend, page
from tests.monitoring.panels import dashboards, filled
from tests.monitoring.scene import Scene, running_scene

IMAGES = Path(__file__).parents[2] / "docs" / "images"
PICTURES = ("overview", "mtproto")
INTERVAL_SECONDS = 5
WIDTH = 1320
ROUND_SECONDS = 10.0
POSTS_A_ROUND = 20


async def main(names: Sequence[str], minutes: float, directory: Path) -> None:
    async with running_scene(directory, interval=f"{INTERVAL_SECONDS}s") as scene:
        rounds = max(1, round(minutes * 60 / ROUND_SECONDS))
        await scene.live(rounds, pause=ROUND_SECONDS / POSTS_A_ROUND)
        firing = {alert.name for alert in await scene.prometheus.alerts() if alert.state == "firing"}
        print("firing:", *sorted(firing))
        async with running_browser() as browser:
            for name in names:
                await _draw(scene, browser, name)


async def _draw(scene: Scene, browser: Browser, name: str) -> None:
    board = dashboards()[name]
    # The first rates need four scrapes.
    start, end = scene.since + 4 * INTERVAL_SECONDS, time.time()
    window = f"{int(end - scene.since)}s"
    data: dict[int, list[Series]] = {}
    for panel in board["panels"]:
        for target in panel.get("targets", ()):
            expression = filled(target["expr"], rate=f"{4 * INTERVAL_SECONDS}s", window=window)
            begin = end if panel["type"] == "table" else start
            answer = await scene.prometheus.query_range(expression, begin, end, INTERVAL_SECONDS)
            data.setdefault(panel["id"], []).extend(
                Series(legend(target.get("legendFormat", ""), labels), points) for labels, points in answer
            )
    tab = await browser.new_page(viewport={"width": WIDTH, "height": 800})
    await tab.set_content(page(board, data, start, end))
    file = IMAGES / f"dashboard-{name}.png"
    await tab.screenshot(path=file, full_page=True)
    await tab.close()
    print(file)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "names", nargs="*", default=PICTURES, help="dashboards; overview and mtproto by default"
    )
    parser.add_argument("--minutes", type=float, default=5.0, help="how long traffic flows before")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        asyncio.run(main(chosen.names, chosen.minutes, Path(scratch)))
