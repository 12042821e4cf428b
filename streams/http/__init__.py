"""HTTP as a client.

guard     what may be reached: the SSRF guard
client    one session for the process: fetches with a cap on decoded bytes, follows redirects, translates errors
"""
