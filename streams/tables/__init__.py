"""Tables: what the results add up to, kept by partition and backed by changelogs on Kafka.

state       the rows of the partitions held here: acknowledged ones, and over them pending ones
store       rows by table and partition, in memory
rocksdb     rows on disk, in RocksDB
pruning     which rows are beyond their bounds, and when to look again
changelogs  the changelog topics: their names, and making them
recovery    reads changelogs back
repair      writes rows again that a former owner overwrote
"""
