"""The implementation. Nothing here is public: import from `devpolicy` and its public modules."""
