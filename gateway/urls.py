"""URLs that name several hosts, as a cluster's do: `amqp://user@one,two:5673,three/vhost`."""

from urllib.parse import SplitResult, urlsplit


def url_per_host(url: str) -> list[SplitResult]:
    """The same URL once for each of its hosts."""
    parts = urlsplit(url)
    login, at, hosts = parts.netloc.rpartition("@")
    return [parts._replace(netloc=f"{login}{at}{host.strip()}") for host in hosts.split(",")]
