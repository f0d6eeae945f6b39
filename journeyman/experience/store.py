"""The experience store: every episode, append-only, content-addressed, chained, on disk when it is acknowledged.

SQLite in a file by default (write-ahead log, full synchronization), PostgreSQL by URL. Whatever is kept is an entry of
one log (`log.py`): whole trajectories of the learning loop, turns that were served, feedback. Each has the sha256 of
its content and a link of a hash chain over all, so that `verify` finds what was changed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from functools import partial
from pathlib import Path

from sqlalchemy import func, select

from journeyman.errors import UnknownName
from journeyman.experience import journal, query, writing
from journeyman.experience.codec import decode
from journeyman.experience.database import Database
from journeyman.experience.journal import Decide, Event, Runs
from journeyman.experience.log import verify
from journeyman.experience.migrations import migrate
from journeyman.experience.outcomes import Episode
from journeyman.experience.query import Changes, News
from journeyman.experience.records import (
    EpisodeFilter,
    EpisodeSummary,
    Feedback,
    Metric,
    Page,
    ServedTurn,
    StoreInfo,
)
from journeyman.experience.schema import EPISODES, LOG
from journeyman.types import Ending, Trajectory


class Store:
    """Experience kept for good. Any number of threads and processes; readers see what was acknowledged.

    What serving writes returns futures: done means on disk. Many at a time share one fsync. In a coroutine,
    `await asyncio.wrap_future(store.record([turn]))`; else `.result()`. One that fails raises StoreUnavailable, and
    nothing of it is kept; the same again later is safe.

    Args:
        where: a file, or a SQLAlchemy URL such as `postgresql+psycopg://...`.

    Raises:
        StoreError: it cannot be opened, is no store, or was written by a newer version.
    """

    def __init__(self, where: Path | str) -> None:
        self.where = str(where)
        self._database = Database(where)
        self._turns = writing.RecentTurns()
        self._record = partial(writing.record_all, recent=self._turns)  # one object: what is alike is done at once
        try:
            self._database.open(migrate)
        except BaseException:
            self._database.close()
            raise

    def close(self) -> None:
        """Finish what was handed over; let go of the database."""
        self._database.close()

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # -- the learning loop writes ----------------------------------------------------------------------

    def add(self, trajectories: Sequence[Trajectory]) -> None:
        """Keep the trajectories: all of them are on disk when this returns, or none.

        One that is there already, with the same content, is left alone: adding again is safe.

        Raises:
            StoreError: it cannot be written, or an id is there with other content.
        """
        if trajectories:
            self._database.write(lambda connection: writing.add(connection, trajectories)).result()

    # -- serving writes --------------------------------------------------------------------------------

    def record(self, turns: Sequence[ServedTurn]) -> Future[None]:
        """Keep turns that were served (all of them, or none); they join the episodes that they name.

        A turn that is there already, with the same content, is left alone.

        The future raises:
            NotKept: an episode was erased.
            StoreConflict: an id is there with other content.
            UsageError: `after` names a turn of another episode.
            StoreUnavailable: it cannot be written now.
        """
        done = self._database.write_each(self._record, turns)
        done.add_done_callback(lambda future: self._turns.put(turns) if future.exception() is None else None)
        return done

    def declare(self, metric: Metric) -> None:
        """Make a metric known; declaring the same again changes nothing. `REWARD` is known from the start.

        Raises:
            StoreConflict: it was declared otherwise.
            StoreUnavailable: it cannot be written now.
        """
        self._database.write(lambda connection: writing.declare(connection, metric)).result()

    def metrics(self) -> dict[str, Metric]:
        """Every metric that was declared, by name."""
        return self._database.read(query.known_metrics)

    def give(self, feedback: Feedback, *, under_way: bool = False) -> Future[Feedback]:
        """Keep feedback. The result is what is kept: with an idempotency key that came before, the earlier one.

        Args:
            under_way: the caller knows that the episode is being served: it may be told of before its first turn is
                kept. Without it, an episode that the store has never seen is refused.

        The future raises:
            NotKept: the episode (or the one it is preferred to) was erased, or was never seen.
            UnknownName: the metric was not declared.
            UsageError: the value is none of the metric, or the turn is none of the episode.
            StoreConflict: the idempotency key (or the id) was used for something else.
            StoreUnavailable: it cannot be written now.
        """
        return self._database.write_each(writing.give_all, (feedback, under_way))

    def probe(self) -> None:
        """Write something and wait for the disk: whether an acknowledgement could be given now.

        Raises:
            StoreUnavailable: it could not.
        """
        self._database.check_room()
        self._database.write(writing.probe).result()

    # -- the journal -----------------------------------------------------------------------------------

    def events(self, after: int = 0) -> list[Event]:
        """Everything that was decided about the deployment, in order (journal.py).

        Args:
            after: leave out the entries of the log up to this one. `Tail` (tail.py) reads on.
        """
        return self._database.read(lambda connection: journal.events(connection, after))

    def happen(self, decide: Decide) -> Future[list[Event]]:
        """Append what `decide` makes of all events so far; nobody comes in between. Done means on disk.

        The future raises what `decide` raises, and then nothing is kept; or StoreUnavailable.
        """
        return self._database.write(lambda connection: journal.happen(connection, decide))

    def entries_of(self, episodes: Sequence[str]) -> Runs:
        """The entries of the log that are about these episodes."""
        return self._database.read(lambda c: journal.entries_of(c, episodes))

    def episodes_in(self, entries: Runs) -> set[str]:
        """The episodes that some of these entries are about."""
        return self._database.read(lambda c: journal.episodes_in(c, entries))

    def content_of(self, entries: Runs) -> str:
        """sha256 over the digests of these entries: the same for ever, whatever is erased."""
        return self._database.read(lambda c: journal.content_of(c, entries))

    def erased(self) -> Runs:
        """The entries whose content was erased."""
        return self._database.read(journal.erased)

    # -- care ------------------------------------------------------------------------------------------

    def erase(
        self,
        *,
        user: str | None = None,
        key: str | None = None,
        episodes: Sequence[str] = (),
        before: float | None = None,
        why: str = "",
    ) -> int:
        """Erase what was said by and to a user, or whole episodes by id or age; how many episodes are gone.

        Their content goes, with all feedback on them, and so does feedback that the user gave elsewhere. Digests, the
        ids of episodes and the fact stay, so that `verify` still passes, and late writes to them are refused. In
        SQLite nothing of it is left in the file; in PostgreSQL the next VACUUM takes the rest.

        Args:
            key: the API key under which the user is known; None: any.
            before: episodes of which nothing has come since this time (Unix seconds).
            why: kept with the fact; no personal data, please.

        Raises:
            StoreUnavailable: it cannot be written now.
        """
        wanted = writing.Erasure(user, key, tuple(episodes), before, why)
        gone = self._database.write(lambda connection: writing.erase(connection, wanted)).result()
        self._turns.clear()
        self._database.forget()
        return gone

    def verify(self, head: tuple[int, str] | None = None) -> list[str]:
        """Derive every digest and the chain again; what does not fit, in words. Empty when all is as written.

        Args:
            head: `entries` and `head` of an earlier :meth:`info`: whether the log still holds what it held then.
        """
        return self._database.read(lambda c: verify(c, head))

    def info(self) -> StoreInfo:
        """The store at a glance."""
        return self._database.read(lambda c: query.info(c, self._database.size()))

    # -- reading ---------------------------------------------------------------------------------------

    def browse(self, wanted: EpisodeFilter | None = None, *, cursor: str | None = None, limit: int = 50) -> Page:
        """A list of episodes, newest first; `cursor` is the page's before. Erased and unseen ones are left out.

        A search for words looks through the latest entries alone (query.REACH of them); its cursor leads further back.

        Raises:
            UsageError: the cursor is none of ours, or the limit is not within 1 to 1000.
        """
        return self._database.read(lambda c: query.browse(c, wanted or EpisodeFilter(), cursor, limit))

    def whole(self, id: str) -> Episode:
        """An episode with its turns and all of its feedback.

        Raises:
            NotKept: there is none, or it was erased.
        """
        return self._database.read(lambda c: query.whole(c, id))

    def every(self, wanted: EpisodeFilter | None = None) -> Iterator[Episode]:
        """All episodes for which the filter holds, whole, in the order they began; a few at a time are in memory."""
        after: int | None = 0
        while after is not None:
            page, after = self._database.read(
                partial(query.every, wanted=wanted or EpisodeFilter(), after=after, limit=50)
            )
            yield from page

    def changes(self, cursor: int | None = None, *, limit: int = 100) -> Changes:
        """Of which episodes something has come since the cursor, in short; without a cursor, only where to begin."""
        return self._database.read(lambda c: query.changes(c, cursor, limit))

    def attempts(self, id: str, *, limit: int = 200) -> tuple[EpisodeSummary, ...]:
        """Other attempts of the learning loop at the same task, branches among them, in the order they were kept."""
        return self._database.read(lambda c: query.attempts(c, id, limit))

    def openings(self, ids: Sequence[str]) -> dict[str, str]:
        """What each of these episodes (at most 1000) begins with, as text."""
        return self._database.read(lambda c: query.openings(c, ids))

    def news(self, cursor: int = 0, *, limit: int = 100) -> News:
        """Served episodes of which something has come since the cursor (0: the beginning), each whole.

        An episode comes again whenever something new is kept of it. Go on with the result's cursor.
        """
        return self._database.read(lambda c: query.news(c, cursor, limit))

    def episodes(
        self,
        *,
        job: str | None = None,
        split: str | None = None,
        min_step: int | None = None,
        max_step: int | None = None,
        ending: Ending | None = None,
        prefix: str | None = None,
        taught: bool = False,
        latest: bool = False,
        limit: int | None = None,
    ) -> Iterator[Trajectory]:
        """Trajectories of the learning loop, in the order they were kept (newest first with `latest`), narrowed by
        what is given.

        Args:
            prefix: what their ids begin with (`"exam-"`, `"step000003"`).
            taught: only those in which a teacher spoke.
        """
        tests = [
            None if job is None else EPISODES.c.job == job,
            None if split is None else EPISODES.c.split == split,
            None if min_step is None else EPISODES.c.step >= min_step,
            None if max_step is None else EPISODES.c.step <= max_step,
            None if ending is None else EPISODES.c.ending == ending.value,
            None if prefix is None else func.substr(EPISODES.c.id, 1, len(prefix)) == prefix,
            EPISODES.c.taught > 0 if taught else None,
        ]
        found = (
            select(LOG.c.record, LOG.c.columns)
            .join(EPISODES, EPISODES.c.first == LOG.c.number)
            .where(EPISODES.c.origin == "learning", *(test for test in tests if test is not None))
            .order_by(LOG.c.number.desc() if latest else LOG.c.number)
            .limit(limit)
        )
        rows = self._database.read(lambda c: c.execute(found).all())
        return (decode(row[0], bytes(row[1])) for row in rows)

    def episode(self, id: str) -> Trajectory:
        """One trajectory of the learning loop by its id.

        Raises:
            UnknownName: there is none; the message names the nearest ids.
        """
        kept = LOG.c.kind == "trajectory", LOG.c.record.is_not(None)
        found = select(LOG.c.record, LOG.c.columns).where(LOG.c.id == id, *kept)
        row = self._database.read(lambda c: c.execute(found).first())
        if row is None:
            ids = select(LOG.c.id).where(*kept)
            raise UnknownName("episode", id, self._database.read(lambda c: list(c.execute(ids).scalars())))
        return decode(row[0], bytes(row[1]))

    def count(self) -> int:
        """How many trajectories of the learning loop are kept."""
        kept = select(func.count()).select_from(EPISODES).where(EPISODES.c.origin == "learning")
        return int(self._database.read(lambda c: c.execute(kept).scalar_one()))
