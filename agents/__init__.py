"""What the service does.

worker         the process that `millrace worker` and `faust -A agents.worker worker` start
answer/        requests topic → results topic and dead letters
tables/        results topic → tables
worker_status  the record that a worker publishes about itself once a second
metrics        the catalogue of metrics, and its page of documentation
stats          where each metric's value is read
site           a worker's web site: API, pages, events
api/           what a worker answers over HTTP
checkup/       what `millrace doctor` examines
commands/      the command line, one command a module
testing/       tests of plugins and sources: a worker without its surroundings
"""

DISTRIBUTION = "millrace-kafka"
"""Whose package this is: millrace/installation.py looks for it."""
