"""What an operator configures.

settings    every setting, read once from the environment
declaration how a setting is declared
validators  what the text of a setting may be, and the values made of it
docs        the reference of the settings, generated from them
cache_url   cache tiers as an operator writes them
secrets     the secrets that sources name
plugins     the operator's own code: found, loaded, reported
"""
