"""What each consumer takes, one module for each, and the only code that knows a consumer's rules.

A library is imported when one of its functions is called, never before.
"""
