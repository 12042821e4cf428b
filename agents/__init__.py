"""What the service does.

known       requests met before: validated once, recognised by their bytes
enrich      one request → one answer: from the cache, from a fetch under way, or from the upstream
ask         asks the upstream: fetch or call, load
judge       runs the checks that have said nothing yet of a document
keeper      what is put into the cache, and for how long it may be used
enriched    what came of a request: an answer that is encoded but for what differs from request to request
api         what a worker tells of its cache, upstreams and checks over HTTP
answer      the agent: requests topic → results topic and dead letters
tabulating  the part of a worker that keeps the tables: its app and what the agent needs
tabulate    the agent: results topic → tables
tally       what the results of one partition add up to
reading     reads a result record for the tables
rows        what a row of each table means, and how partial rows make a whole one
glimpse     the fields of a stored answer that a search asks for, without the rest
glance      one result as the pages that watch show it
places      which requests are begun, which wait for their host, and which are refused
line        the requests that wait for one host, and whether it keeps up
letters     what goes with a dead letter and a result beside their JSON: headers
account     what was answered: by outcome and cache state, and how long it took
metrics     the catalogue of metrics, and its page of documentation
figures     where each figure of the metrics is read
traced      spans of requests
answering   the part of a worker that answers: its app and what the agent needs
presence    what a worker tells of itself once a second
site        the web site of a worker: API, pages, events
worker      the process that `millrace worker` and `faust -A agents.worker worker` start
commands/   the command line, one command a module
testing/    for those who write plugins and sources: a worker without its surroundings, to test them in
"""

DISTRIBUTION = "millrace-kafka"
"""Whose package this is: millrace/installation.py looks for it."""
