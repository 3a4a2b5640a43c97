"""The only arithmetic of bytes: what a model takes under a workload, and what a policy allows of each device."""
