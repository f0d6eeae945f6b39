"""The tables of the present schema version, as SQLAlchemy's objects; `migrations.py` makes them.

`log` is the record: everything that was ever kept, in order, append-only, each row with the sha256 of its content and
its link of the hash chain. The other tables are an index of it.
"""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Double, Integer, LargeBinary, MetaData, Table, Text

METADATA = MetaData()

LOG = Table(
    "log",
    METADATA,
    Column("number", BigInteger, primary_key=True),  # 1, 2, 3... without gaps
    Column("kind", Text),  # trajectory, turn, feedback, metric, event, erasure
    Column("id", Text),  # NULL once erased, but for trajectories
    Column("once", Text),  # hash of a caller's idempotency key
    Column("key_id", Text),  # the API key they came by
    Column("user_id", Text),  # the end user whose words these are
    Column("record", Text),  # canonical JSON; NULL once erased
    Column("columns", LargeBinary),  # arrays, little-endian; NULL once erased
    Column("digest", Text),  # sha256 of record and columns
    Column("chain", Text),  # sha256 of the link before and the digest
)
EPISODES = Table(
    "episodes",
    METADATA,
    Column("id", Text, primary_key=True),
    Column("first", BigInteger),  # its first entry of the log
    Column("last", BigInteger),  # its latest
    Column("origin", Text),  # learning, served, unseen (feedback came first), erased
    Column("job", Text),
    Column("split", Text),
    Column("task_index", Integer),
    Column("step", Integer),
    Column("ending", Text),
    Column("reward", Double),
    Column("value", Double),  # V after its last token
    Column("taught", Integer),  # turns that a teacher said
    Column("turns", Integer),
    Column("feedback", Integer),
    Column("key_id", Text),
    Column("user_id", Text),
    Column("started", Double),  # Unix seconds
    Column("updated", Double),
    Column("erased", Double),
)
MENTIONS = Table("mentions", METADATA, Column("episode", Text), Column("number", BigInteger))
"""Which entries of the log are about which episode: a preference is about two."""
VERSIONS = Table("versions", METADATA, Column("episode", Text), Column("version", BigInteger))
"""Which versions made some of which episode."""
