"""Tries again later what failed: the delay topics, and what waits in them.

app      the part of a worker that reads the delay topics, in a consumer group of its own
waiting  the records that were read and are not due yet
release  taking up early what waits
"""
