"""TOML with positions, and the field tables that read, describe and document it."""
