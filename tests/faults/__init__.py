"""The fault matrix: real workers on three real brokers under steady load, one fault after the other.

`cluster.py` starts and hurts brokers, `proxy.py` is the network between, `load.py` sends and knows what Kafka
acknowledged, `faults.py` lists the faults, `scene.py` does one of them, `history.py` asks the questions of what came
out, `matrix.py` runs them and reports. Load and questions read with another client than the service's.
"""
