"""The pool of processes that run checks.

pool      CheckPool: what waits, and who runs it
suspicion who is to blame when a process ends
crew      the processes: they start, are replaced, end
seat      a check asked for, and a process at work on some
child     one process, as its parent sees it; `models/child.py` is the other end
large     a process for work on large values, which would hold up the event loop
costs     what checks have cost: how many travel together, which need not travel, how much may be begun
admission how much work on checks requests may have begun
"""

from streams.pool.large import LargeWork
from streams.pool.pool import CheckPool

__all__ = ["CheckPool", "LargeWork"]
