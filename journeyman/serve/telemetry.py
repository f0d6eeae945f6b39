"""Where an answer's time went, as OpenTelemetry's spans. Imported only where `--telemetry` asks for it.

    answer              from the request's head to the disk's acknowledgement; in the client's own trace, if it has one
      queue             until it has a slot
      prefill           until its first token
      decode            until its last
      store             until it is on the disk

A thoughtful answer has `search` for prefill and decode. Spans are made when all is over, from the times that were noted
on the way, so that nothing of it is in the way of an answer.
"""

from __future__ import annotations

from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from journeyman.serve.timeline import Timeline


class Telemetry:
    """Makes spans, and sends them in the background.

    Args:
        service: the server's name among others'.
        exporter: who gets them; by default OTLP over HTTP, to where OTEL_EXPORTER_OTLP_ENDPOINT says.
    """

    def __init__(self, service: str, exporter: SpanExporter | None = None) -> None:
        self._provider = TracerProvider(resource=Resource.create({"service.name": service}))
        self._provider.add_span_processor(BatchSpanProcessor(exporter or OTLPSpanExporter()))
        self._tracer = self._provider.get_tracer("journeyman.serve")
        self._propagator = TraceContextTextMapPropagator()

    def note(self, answer: Timeline) -> None:
        """One answer that is over."""
        parent = self._propagator.extract(answer.trace)
        whole = self._tracer.start_span(
            "answer",
            context=parent,
            kind=trace.SpanKind.SERVER,
            start_time=_nanoseconds(answer.came),
            attributes=answer.facts,
        )
        inside = trace.set_span_in_context(whole)
        for name, start, end in answer.phases:
            self._tracer.start_span(name, context=inside, start_time=_nanoseconds(start)).end(_nanoseconds(end))
        whole.end(_nanoseconds(answer.phases[-1][2]))

    def close(self) -> None:
        """Send what is left."""
        self._provider.shutdown()


def _nanoseconds(seconds: float) -> int:
    return int(seconds * 1e9)
