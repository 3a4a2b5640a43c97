"""Planning: which plan is made where a policy leaves a choice.

Owns the search over wishes that give way, replicas of a component, and the questions over many of them (`fit`). One
plan, with every wish fixed, is `devpolicy._core.placement`'s.
"""
