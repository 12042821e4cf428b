"""What the process tells about itself. Knows no business rule, nothing of Kafka or HTTP.

logs      one line an event, for a console or as JSON, without secrets
flood     lines of one kind that are too many: left out, and their number told
timed     a decorator that measures any function
"""
