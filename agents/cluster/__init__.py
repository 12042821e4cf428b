"""What workers report about themselves.

worker_status   the record that a worker publishes about itself once a second
heartbeat       publishes it
registry        reads every worker's latest record
cluster_status  workers, partitions, sources, caches and hosts, from all records
route_status    routes, from all records
later_status    what is tried again later, from all records
rate_shares     how workers share the rate of a limit: claims, wants, and who is gone
shared_limits   writes and reads them
"""
