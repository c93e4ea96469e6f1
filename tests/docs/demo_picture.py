"""Takes the picture docs/images/demo.svg of the demo's own screen: `python -m tests.docs.demo_picture`."""

import asyncio
import logging
import os
import re
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.layout import Layout
from rich.terminal_theme import MONOKAI

from gateway.demo import show
from gateway.demo.screen import Screen
from gateway.logs import configure_logging
from tests.docs.pages import ROOT

PICTURE = ROOT / "docs" / "images" / "demo.svg"
COLUMNS, LINES = 104, 26
ACT = "PostgreSQL is killed"
SINK = "timescaledb"
SECONDS = 50.0


class _Camera(Screen):
    """Keeps the frame in which most events wait for the database alone."""

    def __init__(self) -> None:
        super().__init__()
        cameras.append(self)
        self.best: tuple[int, Layout] | None = None

    def draw(self, status: dict[str, Any] | None, posted: int, act: str, height: int) -> Layout:
        frame = super().draw(status, posted, act, height)
        sinks = {sink["name"]: sink for sink in (status or {}).get("sinks", [])}
        down = [name for name, sink in sinks.items() if not sink["up"]]
        waits = {name: sink["lag_events"] for name, sink in sinks.items()}
        shown = 2 * waits.get(SINK, 0) - sum(waits.values())
        if act == ACT and down == [SINK] and shown > (self.best[0] if self.best else 0):
            self.best = (shown, frame)
        return frame


cameras: list[_Camera] = []


def main() -> None:
    """Plays the demo to nobody, and writes its best frame."""
    configure_logging("ERROR")
    # The consumer's library reports each failed try to reach a broker that is stopped.
    logging.getLogger("aiormq").setLevel(logging.CRITICAL)
    vars(show)["Screen"] = _Camera
    with Path(os.devnull).open("w") as nobody:
        stage = Console(file=nobody, force_terminal=True, width=COLUMNS, height=LINES)
        asyncio.run(show.run_demo(stage, seconds=SECONDS, plain=False, rate=40, with_servers=True))
        best = cameras[0].best
        if best is None:
            raise SystemExit(f"no frame of {ACT!r} was worth a picture; run it again, on a quieter machine")
        film = Console(file=nobody, record=True, force_terminal=True, width=COLUMNS, height=LINES)
        film.print(best[1])
    svg = film.export_svg(title='make demo: "PostgreSQL is killed"', theme=MONOKAI)
    # Fonts come from the reader's machine: nothing in the documentation is fetched from the network.
    svg = re.sub(r"@font-face\s*{.*?}\s*", "", svg, flags=re.DOTALL)
    PICTURE.write_text(svg.replace("Fira Code", "DejaVu Sans Mono"))


if __name__ == "__main__":
    main()
