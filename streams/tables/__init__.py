"""Tables: what the results add up to, kept by partition and backed by changelogs on Kafka.

view      what this worker holds of the tables, for those who ask
workers   the latest record of every worker, as each tells of itself once a second
"""
