"""Experience: what happened, and what was said of it, kept."""

from journeyman.experience.ids import made_at, uuid7
from journeyman.experience.outcomes import Episode
from journeyman.experience.query import News
from journeyman.experience.records import (
    REWARD,
    EpisodeFilter,
    EpisodeSummary,
    Feedback,
    Metric,
    Page,
    ServedTurn,
    StoreInfo,
    VersionSpan,
)
from journeyman.experience.store import Store

__all__ = [
    "REWARD",
    "Episode",
    "EpisodeFilter",
    "EpisodeSummary",
    "Feedback",
    "Metric",
    "News",
    "Page",
    "ServedTurn",
    "Store",
    "StoreInfo",
    "VersionSpan",
    "made_at",
    "uuid7",
]
