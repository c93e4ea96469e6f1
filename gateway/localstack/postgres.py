"""PostgreSQL and PgBouncer in front of it, with the files of `deploy/timescaledb` and `deploy/pgbouncer`."""

import secrets as random_secrets
import shutil
import signal
from pathlib import Path

import asyncpg

from gateway.database.connection import CONNECTION_LOST
from gateway.localstack.packages import program, timescaledb_installed
from gateway.localstack.process import Server, run_once
from gateway.localstack.site import Site
from gateway.server_secrets import write_private

DATABASE = "telegram_gateway"
ROLE = "telegram"


class Postgres(Server):
    """The database server, with the role and the database of `bootstrap.sql`."""

    stop_signal = signal.SIGINT  # "fast": open sessions are ended, not waited for
    orphan_signal = signal.SIGQUIT  # "immediate": unlike a kill, it gives the shared memory back
    not_ready = (asyncpg.PostgresError, *CONNECTION_LOST)

    def __init__(self, site: Site) -> None:
        super().__init__("postgres", site)
        self._shipped = site.config_dir / "timescaledb"
        self._admin_password = random_secrets.token_hex(24)

    @property
    def dsn(self) -> str:
        """The gateway's way in past the pooler: migrations and the lease."""
        return f"postgresql://{ROLE}:{self.site.passwords.db}@127.0.0.1:{self.port}/{DATABASE}"

    @property
    def admin_dsn(self) -> str:
        """The superuser's way in, to the database `postgres`."""
        return f"postgresql://postgres:{self._admin_password}@127.0.0.1:{self.port}/postgres"

    async def prepare(self) -> None:
        names = ["postgresql.conf", "pg_hba.conf"]
        if timescaledb_installed():
            names.append("extension/timescaledb.conf")
        for name in names:
            shutil.copyfile(self._shipped / name, self.directory / Path(name).name)
        write_private(self.directory / "admin_password", self._admin_password)
        self.site.identity.give(self.directory)
        await run_once(
            self.site.identity.command(
                program("initdb"),
                f"--pgdata={self.directory}/data",
                "--username=postgres",
                f"--pwfile={self.directory}/admin_password",
                "--auth=scram-sha-256",
                "--encoding=UTF8",
                "--locale=C.UTF-8",
                "--data-checksums",
                "--no-sync",
                "--no-instructions",
            ),
            self.directory,
            {},
        )

    def command(self) -> list[str | Path]:
        settings = {
            "config_file": self.directory / "postgresql.conf",
            "hba_file": self.directory / "pg_hba.conf",
            "port": self.port,
            "unix_socket_directories": "",
        }
        overrides = [f"--{name}={value}" for name, value in settings.items()]
        return [program("postgres"), "-D", self.directory / "data", *overrides]

    async def probe(self) -> None:
        connection = await asyncpg.connect(self.admin_dsn, ssl=False)
        await connection.close()

    async def start(self) -> None:
        first = not self._prepared
        await super().start()
        if first:
            await self._bootstrap()

    async def _bootstrap(self) -> None:
        argv: list[str | Path] = [
            program("psql"),
            "--no-psqlrc",
            "--quiet",
            "--set=ON_ERROR_STOP=1",
            "--host=127.0.0.1",
            f"--port={self.port}",
            "--username=postgres",
            "--dbname=postgres",
            f"--file={self._bootstrap_file()}",
        ]
        variables = {
            "PGPASSWORD": self._admin_password,
            "TELEGRAM_DB_PASSWORD_FILE": str(self.site.secrets / "telegram_db_password"),
        }
        await run_once(self.site.identity.command(*argv), self.directory, variables)

    def _bootstrap_file(self) -> Path:
        # A copy, because the servers' user may not be able to reach the checkout.
        file = self.directory / "bootstrap.sql"
        shutil.copyfile(self._shipped / "bootstrap.sql", file)
        return file


class PgBouncer(Server):
    """The transaction pooler in front of the database."""

    not_ready = (asyncpg.PostgresError, *CONNECTION_LOST)

    def __init__(self, site: Site, postgres: Postgres) -> None:
        super().__init__("pgbouncer", site)
        self._postgres_port = postgres.port

    def dsn(self, database: str = DATABASE) -> str:
        return f"postgresql://{ROLE}:{self.site.passwords.db}@127.0.0.1:{self.port}/{database}"

    async def prepare(self) -> None:
        shutil.copyfile(
            self.site.config_dir / "pgbouncer" / "pgbouncer.ini", self.directory / "pgbouncer.ini"
        )
        # No second [pgbouncer] heading: it would put every setting back to its default.
        (self.directory / "stack.ini").write_text(
            f"%include {self.directory}/pgbouncer.ini\n"
            f"listen_port = {self.port}\n"
            f"auth_file = {self.site.secrets}/userlist.txt\n"
            "unix_socket_dir =\n"
            "[databases]\n"
            f"{DATABASE} = host=127.0.0.1 port={self._postgres_port} dbname={DATABASE}\n"
        )

    def command(self) -> list[str | Path]:
        return [program("pgbouncer"), self.directory / "stack.ini"]

    async def probe(self) -> None:
        # Its own console, which answers whether or not PostgreSQL is up behind it.
        connection = await asyncpg.connect(self.dsn("pgbouncer"), ssl=False, statement_cache_size=0)
        try:
            await connection.execute("SHOW VERSION")
        finally:
            connection.terminate()
