"""What the process tells about itself. Knows no business rule, nothing of Kafka or HTTP.

logs      one line an event, for a console or as JSON, without secrets
flood     lines of one kind that are too many: left out, and their number told
announcer says when the process is ready, and when it is no more
metrics   a catalogue of metrics and what reads them, for Prometheus
loop      how late the event loop is, and what it does when it does not turn
watchdog  a worker that stands still by a fault of its own ends
tracing   OpenTelemetry's tracer, if there are to be traces
timed     a decorator that measures any function
"""
