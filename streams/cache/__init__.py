"""Where answers are cached.

front                 one face for all tiers: memory first, then those that workers share
lookup_queue          keys looked for in one turn of the loop, asked of a tier in one call
entry                 an answer as it is cached: its times, validators and encoding
check_results         the check results of a document, cached with it
freshness             how long an answer may be used: headers of response and request, within our limits (RFC 9111)
changes               changes by unsafe methods, and what they invalidate
single_flight         one fetch for all who wait for the same document
memory                LRU and TTL, bounded by entries and bytes; a hit awaits nothing
file                  a folder of entries, behind aiocache's interface
folder                the files themselves: complete or absent
threads               the threads that wait for the disk
memcached             memcached servers, behind aiocache's interface
memcached_connection  one server: complete answers to its own questions, or a pause
memcached_admin       statistics and purges for the command line
"""
