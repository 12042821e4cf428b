"""Keeps the tables: results topic → rows.

app            the part of a worker that keeps the tables: its Faust app and what the agent needs
agent          the agent: takes batches of results, writes rows
result_parser  reads a result record
aggregate      what the results of one partition add up to
rows           what each table's row means, and how partial rows are merged
projection     the fields of a stored answer that a search needs, without the rest
"""
