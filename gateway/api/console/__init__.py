"""The web console at `/`: pages and scripts that show the gateway to the people who operate it.

It has no data of its own: its scripts ask the API's endpoints, as any other client would, with the operator's
token in a cookie that no script can read.
"""

from gateway.api.console.pages import router

__all__ = ["router"]
