"""The sinks that the settings switch on, each made from its piece of them."""

from pydantic import SecretStr

from gateway.settings import Settings
from gateway.sinks.base import Sink
from gateway.tracing import sampling


def enabled_sinks(settings: Settings) -> list[Sink]:
    """The sinks that the settings switch on. Nothing connects yet."""
    sinks: list[Sink] = []
    if settings.enable_db:
        from gateway.sinks.timescale import TimescaleSink

        sinks.append(TimescaleSink(settings.db_dsn.get_secret_value(), password=_plain(settings.db_password)))
    if settings.enable_cache:
        from gateway.sinks.redis import RedisSink

        sinks.append(
            RedisSink(
                None if settings.redis_sentinels else settings.redis_url.get_secret_value(),
                password=_plain(settings.redis_password),
                sentinels=settings.redis_sentinels,
                sentinel_password=_plain(settings.redis_sentinel_password),
                master=settings.redis_master,
            )
        )
    if settings.enable_queue:
        from gateway.sinks.rabbitmq import RabbitMQSink

        traced = sampling(settings)
        sinks.append(
            RabbitMQSink(
                settings.rabbitmq_url.get_secret_value(),
                password=_plain(settings.rabbitmq_password),
                traceparent=traced.traceparent if traced else None,
            )
        )
    return sinks


def _plain(secret: SecretStr | None) -> str | None:
    return secret.get_secret_value() if secret else None
