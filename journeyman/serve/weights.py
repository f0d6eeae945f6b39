"""The weights that a server has, and what the registry says of them: their number, and whether they may be served."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from journeyman.api import open_model
from journeyman.errors import CheckpointError, JourneymanError, UsageError
from journeyman.model.load import LoadedModel
from journeyman.model.weights import weights_digest
from journeyman.release.book import Book, Version
from journeyman.release.registry import Registry


@dataclass(frozen=True)
class Beginning:
    """What a server begins with; `notice`: why that is not what it was told to serve, where it is not."""

    loaded: LoadedModel
    version: Version
    notice: str = ""


def beginning(registry: Registry, loaded: LoadedModel, folder: Path, *, follows: bool) -> Beginning:
    """What a server begins with that was told to serve these weights; an improver that comes before it, too.

    Those that nobody knew become the release: whoever serves them has decided so. Those that are known give way to the
    release, where the log has another: they were superseded.

    Args:
        folder: where servers of before there was a registry kept their versions.
        follows: whether the server follows the log. If not, it serves them, whatever the release is.

    Raises:
        UsageError: they are in quarantine. CheckpointError: the release cannot be loaded.
    """
    registry.take_over(folder / "versions.json")
    why = f"served by hand: {loaded.source}"
    version = registered(registry, loaded, release=why if follows else "")
    book = registry.book()
    release = book.aliases.get("release")
    if follows and release is None:
        registry.point("release", version.number, why)
    if not follows or release in (None, version.number):
        return Beginning(loaded, version)
    told = f"version {version.number} ({loaded.source}) was superseded: the release is version {release}"
    return Beginning(opened(book.versions[release]), book.versions[release], f"{told}, and is served")


def registered(registry: Registry, loaded: LoadedModel, *, release: str = "") -> Version:
    """The version that these weights are; a new one, made of the present release, where nobody knew them.

    Args:
        release: why they become the release at once, where nobody knew them; by default they do not.

    Raises:
        UsageError: they are in quarantine.
    """
    book = registry.book()
    parents = [book.aliases["release"]] if "release" in book.aliases else []
    digest, place = weights_digest(loaded.model), _place(loaded.source)
    version = registry.add(digest, place, parents=parents, release=release)
    check_trusted(book, version)
    return version


def check_trusted(book: Book, version: Version) -> None:
    """Raises UsageError: the version is in quarantine."""
    if (why := book.distrust(version.number)) is not None:
        raise UsageError(
            f"version {version.number} ({version.source}) is in quarantine",
            reason=why,
            fix="serve another, or lift that first: journeyman release quarantine STORE --lift ID --why ...",
        )


def opened(version: Version) -> LoadedModel:
    """A version's weights, from where they were when it was registered.

    Raises:
        CheckpointError: they are not there any more, or others are.
    """
    what = f"version {version.number} cannot be loaded from {version.source}"
    fix = "put its weights back there, or take another version: journeyman release rollback STORE --why ..."
    try:
        loaded = open_model(version.source)
    except (JourneymanError, OSError, ValueError) as error:
        raise CheckpointError(what, reason=str(error).splitlines()[0], fix=fix) from error
    if weights_digest(loaded.model) != version.digest:
        raise CheckpointError(what, reason="other weights are there now", fix=fix)
    return loaded


def _place(source: str) -> str:
    """As another process finds it, whatever folder it works in."""
    return str(Path(source).resolve()) if Path(source).exists() else source
