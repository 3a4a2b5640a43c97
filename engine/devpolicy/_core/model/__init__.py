"""Models: `ModelTree`, and the readers of modules, configurations, checkpoints and model files."""
