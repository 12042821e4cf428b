"""What an operator configures.

settings    every setting, read once from the environment
declaration how a setting is declared
validators  what the text of a setting may be
docs        the reference of the settings, generated from them
networks    networks and ports as an operator writes them
cache_url   cache tiers as an operator writes them
secrets     the secrets that sources name
plugins     the operator's own code: found, loaded, reported
toml_lines  where each key stands in a TOML text
"""
