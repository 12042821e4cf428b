"""What the service does.

known       requests met before: validated once, recognised by their bytes
enrich      one request → one answer: cache, fetch, load, check
answer      the agent: requests topic → results topic and dead letters
letters     what goes with a dead letter and a result beside their JSON: headers
worker      the app that `millrace worker` and `faust -A agents.worker worker` start
commands/   the command line, one command a module
"""
