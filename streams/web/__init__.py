"""The worker's HTTP server. It knows nothing of what the routes answer.

server      puts the others together and listens
connection  one client's connection: how many there may be, and how long each may keep us waiting
security    who may do what, under which host names, and what a browser may do with an answer
problems    errors as problem details (RFC 9457)
responses   JSON and CSV, with an ETag; JSON bodies
probes      /livez, /readyz and /metrics
"""
