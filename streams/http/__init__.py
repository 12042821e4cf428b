"""HTTP as a client.

client    one session for the process: fetches with a cap on decoded bytes, follows redirects, translates errors
"""
