"""Templates of model families: the rows of each, and what its configuration makes of them.

Owns what version 5 of Transformers builds, held against it by tests.
"""
