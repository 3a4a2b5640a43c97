"""devpolicy."""
