"""Kafka, batch by batch.

transport          the Faust transport that hands an agent a run of records as one event
batch              the run of records that is one event, and its topic
thread             the thread that polls, commits and belongs to the group
fetched            what consumers hand on of what they fetched: bounded, with a placeholder for what cannot be read
lenient            reads the records of a batch, whatever was written
codecs             inflates batches, a piece at a time
lease              our hold on one assigned partition: what is finished, how far the commit may go
key_order          the order of keys: which record waits for an earlier one
holdings           the leases of a member: where each continues, how they end, what is kept of them
commits            a group's commits, as its coordinator has them, or its error
commit_metadata    the topic that a commit belongs to, and the offsets completed beyond it
quiet              Faust's services, woken less
patterns           topics that patterns match, read as they appear
watch              changes of the topics being consumed: re-created, truncated, gone, unreachable
outgoing           a record to publish, and the queue of those that wait for one partition
publisher          confirmed delivery of records in batches
transactional      a publisher that commits records and offsets in transactions
transaction        what one transaction takes
txn_producer       one transactional producer of aiokafka after the other
txn_offsets        the group's offsets in transactions, fenced by generation
txn_leases         the leases of a member as its transactions see them
producer           one idempotent producer of aiokafka after the other
sender             single records, confirmed, for what a person sends
tail               the end of the results, for those who wait for one or watch
reader             what a topic holds now, read once, without a group
topics             the contract's topics: create, verify, report differences
membership         until when the group surely counts this member
connection         aiokafka's connection to a broker, with probes, and errors that aiokafka understands
client             opens consumers, producers and admin clients, and a connection to one broker
errors             Kafka's errors, as one sentence that says what to do
oauthbearer        the token of an OAUTHBEARER login
cluster            what a broker reports about topics, and about what we may do with them
"""
