"""A first policy for models and hosts: drafted, tried, and tested.

Owns which policy is proposed and which tests go with it. A draft is kept only where it plans on every host, and a test
only where it passes. Nothing here writes a file.
"""
