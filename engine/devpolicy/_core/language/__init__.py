"""The policy language: TOML text in, `Policy` out, with every finding and its place."""
