"""Fleets: several hosts, which node of them each component is planned on, and what changes when nodes come and go.

Owns `Fleet`, `plan_fleet` and `FleetPlan`, which are public as `devpolicy.fleet`. Scheduling is Ray's: `ray` writes a
plan in its forms, and only `probe` and `starting` talk to a cluster.
"""
