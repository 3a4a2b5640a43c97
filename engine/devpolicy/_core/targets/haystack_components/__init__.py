"""Haystack's components under a policy: what each class takes, its name, and how a plan reaches its init parameters.

Owns three ways to the same end: saved pipelines (`deciding`), pipelines built in code (`applying`) and components that
are given no device while a policy is in use (`ambient`). `devpolicy.haystack` is the public face.
"""
