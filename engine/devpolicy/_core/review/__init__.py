"""Policies reviewed like code: tests, coverage, differences, and properties of families of hosts.

Owns what is asked of plans that are made for hosts nobody has at hand. It plans with the engine's own verbs, and counts
anew what it holds against them; it knows no terminal and no pytest.
"""
