"""What the process reports about itself. Knows no business rule, nothing of Kafka or HTTP.

logs           one line an event, for a console or as JSON, without secrets, without floods of one kind
readiness_log  logs when the process becomes ready, and when it no longer is
metrics        a catalogue of metrics and what reads them, for Prometheus
loop           how late the event loop is, and what happens when it stops turning
watchdog       ends a worker that is stuck by a fault of its own
tracing        OpenTelemetry's tracer, if traces are on
timed          a decorator that measures any function
"""
