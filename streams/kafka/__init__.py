"""Kafka, batch by batch.

lease       our hold on one assigned partition: what is finished, how far the commit may go
holdings    the leases of a member: from where each goes on, what is kept of it when it ends
watch       what becomes of the topics that a consumer is at: made again, cut, gone, out of reach
memo        which topic a commit is of, and finished work beyond the commit point, written into the commit's metadata
transport   the Faust transport that hands an agent a run of records as one event
batch       the run of records that is one event, and its topic
thread      the thread that polls, commits and belongs to the group
fetched     what consumers hand on of what they fetched: bounded, and something for whatever cannot be read
lenient     reads the records of a batch, whatever was written
codecs      inflates batches, a piece at a time
parcel      one record on its way, and who wants to know that it arrived
lane        what waits for one partition, shipped in order
publisher   confirmed delivery of results in batches
sender      single records, confirmed, for what a person sends
tail        the end of the results, for those who wait for one and those who watch
reader      what a topic holds now, read once, without a group
letters     dead letters, read, and chosen for being redriven, each at most once
redriver    writes the requests that they become
group       asks the group's coordinator over a connection of its own
topics      the contract's topics: create, verify, say what differs
client      connection settings and Kafka's errors in our words
token       the token of an OAUTHBEARER login
door        one connection to one broker, to learn why we are not let in
cluster     what a broker says of topics, and of what we may do with them
broker      'give me a broker' for the demo and the tests
"""
