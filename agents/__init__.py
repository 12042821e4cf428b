"""What the service does.

worker    the process that `millrace worker` and `faust -A agents.worker worker` start
answer/   requests topic → results topic and dead letters
routes/   a team's own topics in and out, with sources' answers in their records
later/    what failed, tried again later
tables/   results topic → tables
redrive/  dead letters, and their way back to the requests topic
cluster/  what workers report about themselves
web/      a worker's web site: pages, live events, API
metrics   the catalogue of metrics, and its page of documentation
stats     where each metric's value is read
doctor/   what `millrace doctor` examines
commands/ the command line, one command a module
entry     how a module begins that is run by `python -m` and is no command
testing/  tests of plugins and sources: a worker without its surroundings
"""

DISTRIBUTION = "millrace-kafka"
"""Whose package this is: millrace/installation.py looks for it."""
