"""The sweep: a tiny model of every class of Transformers, divided over simulated devices and compared with the CPU.

Owns the making of `fixtures/architectures.toml`. `python -m tools.architectures --help` says how it is run.
"""
