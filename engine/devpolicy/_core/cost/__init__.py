"""The only arithmetic of time: how fast devices are, and what a placement is predicted to take."""
