"""The Hypothesis strategies, which are public as `devpolicy.testing.strategies`."""
