"""The worker's own HTTP server.

server    /livez and /readyz
"""
