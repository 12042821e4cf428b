"""What `millrace doctor` looks at, a line each: what there is, whether it is as it must be, and what to do if not.

finding   one line of it
kafka     brokers, topics, ACLs, clock
here      settings, plugins, sources, cache tiers, pool, web port, limits
"""
