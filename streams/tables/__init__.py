"""Tables: what the results add up to, kept by partition and backed by changelogs on Kafka.

store       rows by table and partition, in memory
rocks       rows on disk, in RocksDB
stores      makes the store that the settings name
shelves     what is held here: what Kafka has acknowledged, and over it what is on its way
pruning     which rows are beyond their bounds, and when to look again
changelogs  the changelog topics: their names, and making them
recovery    reads changelogs back
mending     writes rows again that a former owner wrote over
view        what this worker holds, for those who ask
presence    a worker tells of itself
workers     the latest record of every worker, as each tells of itself once a second
"""
