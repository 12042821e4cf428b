"""How fast, against what people would write instead. `make bench` runs `python -m bench`.

__main__    the workloads and the table
stage       a broker, an upstream, topics, and a worker process that is measured
isolation   what a hanging host costs the others
upstream    the HTTP server
peers/      the same work as a stock-Faust worker and as hand-written aiokafka + aiohttp
"""
