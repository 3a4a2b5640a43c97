"""Placement: a pure function of a policy, a host and a model tree."""
