"""HTTP as a client.

guard     what may be reached: the SSRF guard
retry     what is tried again, and when
limits    what one host may cost and suffer: places, pauses, the circuit breaker
hop       what is sent to one address, and where a redirect leads
client    one session for the process: fetches with a cap on decoded bytes, follows redirects, translates errors
"""
