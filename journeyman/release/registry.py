"""The registry: every version with its lineage, evidence and notes, and what stands where, in the store's own log.

There is no second place to keep in step: versions lie in the same append-only hash chain as the experience that made
them, `journeyman store verify` checks both, and what was acknowledged is on disk. `book.py` is the state, this is the
way to it. Any number of processes; each change is decided against everything before it.
"""

from __future__ import annotations

import importlib.metadata
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from journeyman.errors import UnknownName, UsageError
from journeyman.experience.journal import Event, Runs, overlap, union
from journeyman.experience.store import Store
from journeyman.release.book import ALIASES, Alias, Book, Quarantine, Version, check_parents, read_version


class Registry:
    """The versions of what one store's deployment serves.

    Args:
        store: beside whose experience they lie.
    """

    def __init__(self, store: Store) -> None:
        self.store = store

    def book(self) -> Book:
        """Everything that is known now."""
        return Book.of(self.store.events())

    def add(
        self,
        digest: str,
        source: str,
        *,
        parents: Sequence[int] = (),
        entries: Runs = (),
        config: Mapping[str, Any] | None = None,
        code: str = "",
        release: str = "",
    ) -> Version:
        """Make weights known; those that are known already keep their number and their lineage.

        Args:
            entries: of the log that it learned from (`Store.entries_of`).
            code: what made it; by default this version of Journeyman.
            release: why they become the release at once, where nobody knew them; by default they do not.

        Raises:
            UnknownName: a parent is not known.
            UsageError: it learned from entries that are in quarantine.
        """
        version = Version(
            0,
            digest,
            source,
            tuple(parents),
            entries,
            self.store.content_of(entries),
            dict(config or {}),
            code or f"journeyman {importlib.metadata.version('journeyman')}",
        )

        def decide(book: Book) -> list[Event]:
            if book.known(digest) is not None:
                return []
            check_parents(book, parents)
            if bad := overlap(entries, book.barred):
                raise UsageError(
                    f"a version that learned from the entries {show_runs(bad)} is not taken",
                    reason="they are in quarantine",
                    fix="leave them out (Registry.barred), or lift the quarantine",
                )
            number = len(book.versions) + 1
            made = [Event("version", _record(replace(version, number=number)))]
            return made + [Event("alias", {"alias": "release", "version": number, "why": release})] * bool(release)

        new = self._change(decide)
        if new:
            return read_version(new[0].data, new[0].at)
        found = self.book().known(digest)
        assert found is not None
        return found

    def take_over(self, file: Path) -> None:
        """Versions that servers of before there was a registry numbered by themselves, in a `versions.json`, in their
        order, so that episodes' numbers keep their meaning. Nothing happens without the file, or where versions are
        known already.

        Raises:
            UsageError: the file cannot be read.
        """
        try:
            kept: list[dict[str, Any]] = json.loads(file.read_text()) if file.exists() else []
            taken = [Version(n, one["digest"], one["source"]) for n, one in enumerate(kept, 1)]
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise UsageError(f"the versions in {file} cannot be read", reason=str(error), fix="restore it") from error

        def decide(book: Book) -> list[Event]:
            return [] if book.versions else [Event("version", _record(version)) for version in taken]

        self._change(decide)

    def point(self, alias: Alias, version: str | int | None, why: str = "") -> Version | None:
        """Let an alias point to a version from now on; None: to nothing.

        Raises:
            UnknownName: no such alias or version.
            UsageError: the version is in quarantine.
        """
        if alias not in ALIASES:
            raise UnknownName("alias", alias, ALIASES)

        def decide(book: Book) -> list[Event]:
            number = None if version is None else book.find(version).number
            if number in book.quarantined:
                raise UsageError(f"version {number} is in quarantine", fix="lift that first, or take another")
            if book.aliases.get(alias) == number:
                return []
            return [Event("alias", {"alias": alias, "version": number, "why": why})]

        self._change(decide)
        return None if version is None else self.book().find(version)

    def roll_back(self, why: str) -> Version:
        """Make the last release before this one, that is not in quarantine, the release again.

        Raises:
            UsageError: there is none.
        """

        def decide(book: Book) -> list[Event]:
            return [Event("alias", {"alias": "release", "version": book.former().number, "why": why or "rolled back"})]

        return self.book().find(self._change(decide)[0].data["version"])

    def note(self, version: str | int, text: str) -> None:
        """Write something down about a version.

        Raises:
            UnknownName, UsageError: no such version, or nothing to write.
        """
        if not text.strip():
            raise UsageError("the note says nothing", fix="give a text")
        self._change(lambda book: [Event("note", {"version": book.find(version).number, "text": text})])

    def attach(self, version: str | int, findings: Mapping[str, Any]) -> None:
        """Keep what was found about a version (`Judgement.as_dict()`).

        Raises:
            UnknownName: no such version.
        """
        self._change(
            lambda book: [Event("evidence", {"version": book.find(version).number, "findings": dict(findings)})]
        )

    # -- trust -----------------------------------------------------------------------------------------

    def quarantine(self, version: str | int, why: str) -> Quarantine:
        """Take a bad version out of service, with all that came of it and what they learned from. Where the release is
        among them, the last good one becomes the release.

        Raises:
            UnknownName: no such version.
            UsageError: the release is among them, and there is no other to go back to.
        """

        def decide(book: Book) -> list[Event]:
            versions, entries = book.suspects(book.find(version).number)
            event = Event("quarantine", {"versions": list(versions), "entries": entries, "why": why})
            held = Quarantine(event.id, versions, entries, why, event.at)
            after = replace(book, quarantines=(*book.quarantines, held))
            moves: list[Event] = []
            for alias, number in book.aliases.items():
                if number in versions:
                    former = after.former().number if alias == "release" else None
                    moves.append(Event("alias", {"alias": alias, "version": former, "why": f"quarantine: {why}"}))
            return [event, *moves]

        id = self._change(decide)[0].id
        return next(q for q in self.book().quarantines if q.id == id)

    def bar(self, episodes: Sequence[str], why: str) -> Quarantine:
        """Put episodes into quarantine: nothing learns from them any more. Versions that did are marked as reached
        (`Book.reached_by`), not taken out of service.

        Raises:
            UsageError: none of them is kept.
        """
        entries = self.store.entries_of(episodes)
        if not entries:
            raise UsageError("none of these episodes is kept")
        made = self._change(lambda _: [Event("quarantine", {"versions": [], "entries": entries, "why": why})])
        return Quarantine(made[0].id, (), entries, why, made[0].at)

    def lift(self, quarantine: str, why: str) -> None:
        """Let a quarantine hold no longer.

        Raises:
            UnknownName: there is none of this id that holds.
        """

        def decide(book: Book) -> list[Event]:
            held = [q.id for q in book.quarantines if q.lifted is None]
            if quarantine not in held:
                raise UnknownName("quarantine", quarantine, held)
            return [Event("lift", {"quarantine": quarantine, "why": why})]

        self._change(decide)

    def barred(self) -> set[str]:
        """Ids of the episodes that the next candidate shall not learn from."""
        return self.store.episodes_in(self.book().barred)

    def reached(self) -> dict[int, Runs]:
        """Versions that learned from what was erased since or is in quarantine, and from which entries."""
        book = self.book()
        return book.reached_by(union([self.store.erased(), book.barred]))

    def _change(self, decide: Callable[[Book], list[Event]]) -> list[Event]:
        return self.store.happen(lambda events: decide(Book.of(events))).result()


def _record(version: Version) -> dict[str, Any]:
    """As its event has it, whose time is the version's."""
    record = asdict(version)
    del record["at"]
    return record


def show_runs(entries: Runs) -> str:
    """Such as "3-7, 9"; long lists are cut."""
    shown = [str(first) if first == last else f"{first}-{last}" for first, last in entries[:5]]
    return ", ".join(shown) + (f" and {len(entries) - 5} more stretches" if len(entries) > 5 else "")
