"""The pool of processes that run checks.

pool        CheckPool: what waits, and who runs it
workers     the processes: they start, are replaced, end
slot        a submitted check, and a process at work on some
quarantine  who is to blame when a process ends
child       one process, as its parent sees it; `models/process.py` is the other end
large       a process for work on large values, which would block the event loop
costs       what checks have cost: how many travel together, and how much may be begun
admission   how much work on checks requests may have begun
"""

from streams.pool.large import LargeWork
from streams.pool.pool import CheckPool

__all__ = ["CheckPool", "LargeWork"]
