"""Where answers are kept.

memory    LRU and TTL, bounded by entries and bytes, behind aiocache's interface; the hit path awaits nothing
freshness how long an answer may be used: Cache-Control within our limits
flights   single-flight: who asks for what is being fetched waits for that fetch
"""
