"""The workers of a group, known by the records that they publish about themselves.

heartbeat  publishes this worker's record
workers    the latest record of every worker
"""
