"""What is promised to consumers, as documents that machines read: made from `gateway.event`, never by hand.

`python -m gateway.contracts` writes them to `docs/contracts`; `--check` says whether they are current.
"""

from gateway.contracts.asyncapi import asyncapi_document
from gateway.contracts.compatibility import breaks
from gateway.contracts.schema import event_schema

__all__ = ["asyncapi_document", "breaks", "event_schema"]
