"""OpenTelemetry's spans, by the SDK's own exporter in memory."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from journeyman.serve.telemetry import Telemetry
from tests.serve.live import RENDERER, Live, judged, scripted

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


def spans_of(tmp_path: Path, **fields: object) -> tuple[dict[str, ReadableSpan], str]:
    """The spans of one answer by name, and its episode."""
    exporter = InMemorySpanExporter()
    with Live(tmp_path, scripted("in a maze", pace=1), judged()) as live:
        live.d.gateway.telemetry = Telemetry("maze", exporter)
        asked = live.chat("where?", headers={"traceparent": f"00-{TRACE}-{PARENT}-01"}, **fields)
        assert asked.status_code == 200
        (kept,) = live.store.browse().episodes
    return {span.name: span for span in exporter.get_finished_spans()}, kept.id


@pytest.mark.parametrize("stream", [False, True])
def test_an_answer_s_time_is_told_in_the_client_s_trace(tmp_path: Path, stream: bool) -> None:
    spans, episode = spans_of(tmp_path, stream=stream)
    assert list(spans) == ["queue", "prefill", "decode", "store", "answer"]
    whole = spans.pop("answer")
    assert whole.context is not None and whole.parent is not None and whole.attributes is not None
    assert (f"{whole.context.trace_id:032x}", f"{whole.parent.span_id:016x}") == (TRACE, PARENT)
    assert whole.attributes["journeyman.episode_id"] == episode
    assert whole.attributes["gen_ai.usage.output_tokens"] == len(RENDERER.reply_ids("in a maze"))
    assert 0 <= whole.attributes["journeyman.value"] <= 1  # type: ignore[operator]
    times = [(span.start_time or 0, span.end_time or 0) for span in spans.values()]
    assert all(span.parent is not None and span.parent.span_id == whole.context.span_id for span in spans.values())
    assert all(start <= end for start, end in times)
    assert [end for _, end in times[:-1]] == [start for start, _ in times[1:]], "one phase begins where another ends"
    assert (whole.start_time or 0) <= times[0][0] and whole.end_time == times[-1][1]
    assert times[2][0] < times[2][1], "one token a step: decoding takes time"


def test_a_search_is_a_phase_of_its_own(tmp_path: Path) -> None:
    spans, _ = spans_of(tmp_path, journeyman={"think": 2, "strategy": "best"})
    assert list(spans) == ["queue", "search", "store", "answer"]


def test_it_is_not_imported_unless_asked_for() -> None:
    code = "import sys, journeyman.serve.server; print('opentelemetry.sdk' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
