"""Every error the gateway raises on purpose.

    GatewayError
    ├── NeedsOperator             exit 78: a person must act, a restart would not help
    │   ├── ConfigurationError    a setting is missing, malformed or contradicts another
    │   ├── SessionError          the session file is absent, readable by others, damaged or in use
    │   │   └── SessionDead       Telegram refuses the session for good
    │   ├── BackupUnusable        a backup is damaged, incomplete or not for this program
    │   ├── RestoreRefused        a restore would overwrite something, or something is in use
    │   ├── LoginFailed           Telegram did not accept a code, password or token
    │   └── SchemaError           the database schema is not one this version can write to
    ├── JournalError              exit 1: the disk failed under the journal; restart re-reads from Telegram
    │   ├── JournalFull           the journal is at its byte limit (intake pauses, nothing is dropped)
    │   └── JournalUnusable       exit 78: damaged, of another version, in use, or not ours to write
    ├── BackupFailed              a backup could not be made or put back now; half a one never counts
    ├── GatewayNotRunning         a command needs the daemon, and none runs with this state directory
    ├── LeaseLost                 another host runs the account; it is disconnected until it may run here
    ├── DeadLettersBusy           somebody else is at the dead letters; one at a time
    ├── SinkUnavailable           a sink's server did not accept a batch now; it is retried
    ├── MediaUnavailable          the media directory cannot be written now; downloads wait, nothing else does
    ├── DownloadFailed            Telegram did not give one file; it is tried again, a bounded number of times
    ├── DownloadPaused            an account has to wait before it may download anything
    └── RecordsRefused            a sink can never accept these records; they go to quarantine

Exit codes follow sysexits(3): 78 is EX_CONFIG, which the systemd unit does not restart.
"""

from collections.abc import Mapping

EXIT_CLEAN = 0
EXIT_CRASHED = 1
EXIT_NOT_RUNNING = 3  # as LSB's `status` action
EXIT_NEEDS_OPERATOR = 78


class GatewayError(Exception):
    """Base of all errors whose message is written for the operator."""

    exit_code = EXIT_CRASHED


class NeedsOperator(GatewayError):
    """A person must act before the gateway can run."""

    exit_code = EXIT_NEEDS_OPERATOR


class ConfigurationError(NeedsOperator):
    """A setting is missing, malformed or contradicts another."""


class SessionError(NeedsOperator):
    """A session file is absent, readable by others, damaged, or used by another process."""


class SessionDead(SessionError):
    """Telegram refuses this session for good (logged out, banned, or used twice)."""


class LoginFailed(NeedsOperator):
    """Telegram did not accept what was given to log in with."""


class SchemaError(NeedsOperator):
    """The database schema is absent or not one that this version can write to."""


class BackupUnusable(NeedsOperator):
    """A backup is damaged, incomplete, or not one that this program can use."""


class RestoreRefused(NeedsOperator):
    """What a restore would replace is in use, or holds something and may not be replaced unasked."""


class BackupFailed(GatewayError):
    """A backup could not be made, proved or put back now; what was half done does not count."""


class JournalError(GatewayError):
    """The journal could not be written or read; nothing since the last commit may be acknowledged."""


class JournalFull(GatewayError):
    """The journal has reached its byte limit."""


class JournalUnusable(JournalError, NeedsOperator):
    """The journal's file is there but cannot be this gateway's; a restart would find the same."""


class GatewayNotRunning(GatewayError):
    """A command needs the running daemon, and none runs with this state directory."""

    exit_code = EXIT_NOT_RUNNING


class LeaseLost(GatewayError):
    """Another host runs this account: it must disconnect here at once, and wait."""


class DeadLettersBusy(GatewayError):
    """Somebody else looks at the dead letters or requeues some; only one may at a time."""


class SinkUnavailable(GatewayError):
    """A sink's server refused or did not answer; the same records are offered again later."""


class RecordsRefused(GatewayError):
    """A sink can never accept some records of a batch.

    `reasons` maps each refused record's journal sequence number to why. Records of the batch that are
    not named have been delivered.
    """

    def __init__(self, reasons: Mapping[int, str]) -> None:
        super().__init__(f"{len(reasons)} record(s) can never be accepted")
        self.reasons = dict(reasons)


class MediaUnavailable(GatewayError):
    """The media directory or the list of wanted files cannot be used now; downloads go on later."""


class DownloadFailed(GatewayError):
    """Telegram did not give a file. `refused` says that asking again is unlikely to help."""

    def __init__(self, reason: str, *, refused: bool = False) -> None:
        super().__init__(reason)
        self.refused = refused


class DownloadPaused(GatewayError):
    """Nothing can be downloaded with an account for `seconds`: a flood wait, or its connection is lost."""

    def __init__(self, seconds: float, reason: str) -> None:
        super().__init__(reason)
        self.seconds = seconds
