"""Upstreams that nobody here wrote: the same answers by the HTTP servers that people run."""
