"""Where answers are kept.

front             one face to all tiers: memory first, behind it those that workers share
entry             an answer as it is kept: until when it is what, and how it is written
verdicts          what checks said of a document, beside its answer
freshness         how long an answer may be used: Cache-Control and Expires within our limits
flights           single-flight: who asks for what is being fetched waits for that fetch
memory            LRU and TTL, bounded by entries and bytes, behind aiocache's interface; the hit path awaits nothing
file              a folder of entries, behind the same interface
folder            the files themselves: whole or not there
threads           the threads that wait for the disk
memcached         memcached servers, behind the same interface
memcached_server  one of them: whole answers to its own questions, or a rest
memcached_console what a command line asks of it
"""
