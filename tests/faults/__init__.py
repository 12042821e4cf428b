"""The fault matrix: real workers on three real brokers under steady load, one fault after the other.

`cluster.py` starts and hurts brokers, `proxy.py` is the network between, `load.py` sends and knows what Kafka
acknowledged, `upstream.py` answers, `front.py` reads the tables through nginx, `worker.py` is a worker that can be hurt
from outside. `fault.py` says what a fault is, `on_*.py` do them, `faults.py` lists them, `scene.py` is what they
are done to, `trial.py` does one and asks, `history.py` has the questions, `matrix.py` reports. Load and questions read
with another client than the service's, but for the rows of the tables.
"""
