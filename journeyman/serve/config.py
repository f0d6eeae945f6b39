"""How a server is set up."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass

from journeyman.errors import UsageError

MEBIBYTE = 1 << 20


@dataclass(frozen=True)
class ServeConfig:
    """What is served where, and how much of it at once."""

    host: str = "127.0.0.1"
    """Address to listen on. Any but loopback needs an API key (`journeyman keys`), or `open`."""
    port: int = 8000
    """Port of the API; 0 takes a free one."""
    admin_host: str = "127.0.0.1"
    """Address of the administration's listener."""
    admin_port: int = 8001
    """Its port; 0 takes a free one."""
    open: bool = False
    """Let everybody in who reaches the port, without a key, on any address."""
    name: str = ""
    """What clients call the model; by default the name of the run or checkpoint."""
    also: tuple[str, ...] = ()
    """Other checkpoints to serve beside it, each with its share of the requests: `runs/new=0.05`. They hold, and
    not those of a rollout in the store's journal."""
    job: str = ""
    """The job that episodes are kept under, and whose calibration makes a chance of V."""
    store: str = ""
    """Where episodes are kept: a file, or a SQLAlchemy URL; by default `experience.sqlite` in the run."""
    teacher: str = ""
    """An OpenAI-compatible API (`https://.../v1`) that answers where the model is unsure and a request asks for that;
    its key is in the environment variable JOURNEYMAN_TEACHER_KEY."""
    teacher_model: str = ""
    """The teacher's name there."""
    slots: int = 64
    """Sequences that the engine holds at once: replies under way, and idle ones whose cache is kept for a next turn."""
    context: int | None = None
    """Longest sequence in tokens; by default as long as the model reads."""
    queue: int = 256
    """Requests that may wait for a slot; one more is refused with 429."""
    queue_seconds: float = 60.0
    """Longest wait for a slot; then 429."""
    reply_seconds: float = 300.0
    """A reply that takes longer is cut, as if by its token limit."""
    request_seconds: float = 30.0
    """A client has this long to send its request's head, and as long again for the body."""
    request_mebibytes: float = 8.0
    """Largest request."""
    per_minute: int = 0
    """Requests that one key (without keys, one address) may make in a minute; 0: any number. A key may have its own."""
    connections: int = 1024
    """Open connections; beyond, 503."""
    choices: int = 16
    """Most answers to one request (`n`, times prompts)."""
    episodes: int = 4096
    """Episodes kept in memory for their next turn; older ones are read from the store when they go on."""
    drain_seconds: float = 30.0
    """After SIGTERM, replies under way have this long to finish."""
    telemetry: bool = False
    """Send OpenTelemetry's spans of each answer to OTEL_EXPORTER_OTLP_ENDPOINT. Needs the extra `telemetry`."""
    log_prompts: bool = False
    """Write what was asked and answered into the log, too."""

    def __post_init__(self) -> None:
        for name in ("port", "admin_port"):
            if not 0 <= getattr(self, name) < 1 << 16:
                raise UsageError(f"serve: {name} must lie in 0 to 65535, got {getattr(self, name)}")
        if self.port and self.port == self.admin_port and self.host == self.admin_host:
            raise UsageError(f"serve: port and admin_port must differ, got {self.port} for both")
        for name in ("slots", "connections", "choices", "episodes"):
            if getattr(self, name) < 1:
                raise UsageError(f"serve: {name} must be at least 1, got {getattr(self, name)}")
        for name in ("queue", "per_minute", "drain_seconds"):
            if getattr(self, name) < 0:
                raise UsageError(f"serve: {name} must be at least 0, got {getattr(self, name)}")
        for name in ("queue_seconds", "reply_seconds", "request_seconds", "request_mebibytes"):
            if not getattr(self, name) > 0:
                raise UsageError(f"serve: {name} must be above 0, got {getattr(self, name)}")
        if self.context is not None and self.context < 2:
            raise UsageError(f"serve: context must be at least 2, got {self.context}")

        if sum(share for _, share in self.others) > 1:
            raise UsageError(f"serve: the shares of `also` must add up to at most 1, got {' '.join(self.also)}")

    @property
    def others(self) -> list[tuple[str, float]]:
        """The other checkpoints, each with its share."""
        return [_shared(one) for one in self.also]

    @property
    def largest(self) -> int:
        """Bytes of the largest request."""
        return int(self.request_mebibytes * MEBIBYTE)


def _shared(text: str) -> tuple[str, float]:
    source, _, amount = text.rpartition("=")
    try:
        share = float(amount)
    except ValueError:
        share = -1.0
    if not source or not 0 <= share <= 1:
        raise UsageError(f"serve: also must be CHECKPOINT=SHARE with a share in [0, 1], got {text!r}")
    return source, share


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches the address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
