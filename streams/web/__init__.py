"""The worker's own HTTP server.

server    /livez and /readyz, and the routes it is given
security  who may do what
"""
