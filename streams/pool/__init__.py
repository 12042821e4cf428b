"""The pool of processes that run checks.

pool        CheckPool: the queues, and which process runs what
workers     starts, replaces and ends the processes; a submitted check, and a process with its checks
quarantine  which check is to blame when a process ends
child       one process, as its parent sees it; `models/process.py` is the other end
large       a process for work on large values, which would block the event loop
costs       measured costs of checks: how many to send in a batch, and how much work to admit
"""

from streams.pool.large import LargeWork
from streams.pool.pool import CheckPool

__all__ = ["CheckPool", "LargeWork"]
