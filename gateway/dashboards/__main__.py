"""Writes the dashboards: `python -m gateway.dashboards`."""

from gateway.dashboards import DIRECTORY, build

DIRECTORY.mkdir(parents=True, exist_ok=True)
for name, text in build().items():
    (DIRECTORY / name).write_text(text)
