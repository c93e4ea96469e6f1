"""TP Capital's worker: turns Brazilian trading signals into rows of its own table. The reference consumer.

`parser` knows the texts, `store` the table, `worker` puts both behind `gateway.consumer`; a consumer of one's
own replaces the first two. docs/tp-capital.md says how.
"""
