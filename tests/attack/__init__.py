"""Hostile inputs at every door, judged by one rule.

`python -m tests.attack` makes them, `doors` says what comes in where, `mutations` how a valid input becomes a hostile
one, and `judge` holds the rule. `test_attack.py` runs a small number of them by default.
"""
