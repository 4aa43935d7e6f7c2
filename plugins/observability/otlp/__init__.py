"""OpenTelemetry's protocol, OTLP/HTTP: server spans are request logs.

    decode -> map -> ingest

``decode`` and, for Protocol Buffers, ``decode_protobuf`` read spans out of a body; ``mapping`` makes events of those
that HTTP servers report; ``service`` passes them to ``ingest.service``, the way of all events.

Sources: https://opentelemetry.io/docs/specs/otlp/ and https://opentelemetry.io/docs/specs/semconv/http/http-spans/.
"""
