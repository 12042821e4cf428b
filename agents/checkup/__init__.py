"""The checks of `millrace doctor`: each yields findings, one per line of output.

finding   one line of output
kafka     brokers, topics, ACLs, clock
here      settings, plugins, sources, cache tiers, pool, web port, limits
"""
