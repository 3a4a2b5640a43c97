"""Policies reviewed like code: tests, coverage, differences, and properties over host spaces.

Owns everything that plans policies for many hosts and checks the results. It plans with the engine's own verbs and
recomputes what it checks.
"""
