"""The conformance checks, which are public as `devpolicy.testing.conformance`."""
