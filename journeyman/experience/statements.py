"""Statements of every write, built once: to build one takes SQLAlchemy three times as long as to run it."""

from __future__ import annotations

from sqlalchemy import bindparam, insert, select, update

from journeyman.experience.schema import EPISODES, LOG, MENTIONS, VERSIONS

_ID = bindparam("of")
_ABOUT = LOG.join(MENTIONS, MENTIONS.c.number == LOG.c.number)

LAST_ENTRY = select(LOG.c.number, LOG.c.chain).order_by(LOG.c.number.desc()).limit(1)
DIGESTS_OF = select(LOG.c.id, LOG.c.digest).where(LOG.c.id.in_(bindparam("ids", expanding=True)))
EPISODES_OF = select(EPISODES.c.id).where(EPISODES.c.id.in_(bindparam("ids", expanding=True)))
TURN_OF = select(LOG.c.record, LOG.c.columns).where(LOG.c.id == _ID)
RECORD_OF = select(LOG.c.kind, LOG.c.record).where(LOG.c.id == _ID)
RECORD_ONCE = select(LOG.c.kind, LOG.c.record).where(LOG.c.once == bindparam("once"))
EPISODE_OF = select(EPISODES).where(EPISODES.c.id == _ID)
ROWS_OF = select(EPISODES).where(EPISODES.c.id.in_(bindparam("ids", expanding=True)))
VERSIONS_OF = select(VERSIONS).where(VERSIONS.c.episode.in_(bindparam("ids", expanding=True)))
ENTRIES_OF = (
    select(LOG.c.kind, LOG.c.record, LOG.c.columns)
    .select_from(_ABOUT)
    .where(MENTIONS.c.episode == _ID)
    .order_by(LOG.c.number)
)
FEEDBACK_OF = (
    select(LOG.c.record)
    .select_from(_ABOUT)
    .where(MENTIONS.c.episode == _ID, LOG.c.kind == "feedback")
    .order_by(LOG.c.number)
)

NEW_ENTRY = insert(LOG)
NEW_MENTION = insert(MENTIONS)
NEW_EPISODE = insert(EPISODES)
CHANGED_EPISODE = update(EPISODES).where(EPISODES.c.id == _ID)
NEW_VERSION = insert(VERSIONS)

SERVED = (
    "first",
    "last",
    "origin",
    "job",
    "ending",
    "value",
    "taught",
    "turns",
    "key_id",
    "user_id",
    "started",
    "updated",
)
"""Columns of an episode's row that its served turns change."""
