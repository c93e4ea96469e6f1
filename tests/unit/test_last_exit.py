"""What a daemon leaves of its end, and what the API shows of it."""

import stat
from pathlib import Path

from prometheus_client import CollectorRegistry

from gateway.errors import EXIT_NEEDS_OPERATOR, SessionDead
from gateway.last_exit import ExitRecord, LastExits

CODE = "telegram_gateway_api_daemon_last_exit_code"


def shown(directory: Path) -> CollectorRegistry:
    registry = CollectorRegistry(auto_describe=True)
    registry.register(LastExits(directory))
    return registry


def test_a_dead_session_is_shown_for_each_of_the_daemons_accounts(tmp_path: Path) -> None:
    ExitRecord(tmp_path, ("main", "other")).leave(EXIT_NEEDS_OPERATOR, SessionDead("a text for the log"))
    ExitRecord(tmp_path, ("third",)).leave(0)
    registry = shown(tmp_path)
    for account in ("main", "other"):
        assert registry.get_sample_value(CODE, {"account": account, "error": "SessionDead"}) == 78
    assert registry.get_sample_value(CODE, {"account": "third", "error": ""}) == 0


def test_another_user_may_read_it_and_it_holds_no_text(tmp_path: Path) -> None:
    ExitRecord(tmp_path, ("main",)).leave(EXIT_NEEDS_OPERATOR, SessionDead("a text for the log"))
    (file,) = tmp_path.iterdir()
    assert stat.S_IMODE(file.stat().st_mode) == 0o644
    assert "text" not in file.read_text()


def test_a_daemon_that_runs_again_is_not_shown(tmp_path: Path) -> None:
    record = ExitRecord(tmp_path, ("main",))
    record.leave(EXIT_NEEDS_OPERATOR, SessionDead("dead"))
    record.clear()
    assert next(iter(shown(tmp_path).collect())).samples == []


def test_without_the_directory_nothing_is_left_and_nothing_fails(tmp_path: Path) -> None:
    absent = tmp_path / "absent"
    record = ExitRecord(absent, ("main",))
    record.clear()
    record.leave(1)
    assert not absent.exists()
    assert next(iter(shown(absent).collect())).samples == []


def test_a_file_that_is_not_ours_does_not_hide_the_others(tmp_path: Path) -> None:
    (tmp_path / "a.exit.json").write_text("not JSON")
    ExitRecord(tmp_path, ("main",)).leave(1)
    assert shown(tmp_path).get_sample_value(CODE, {"account": "main", "error": ""}) == 1
