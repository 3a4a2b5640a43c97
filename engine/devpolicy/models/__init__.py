"""Reading the structure of models: modules, configurations, checkpoints, skeleton files."""
