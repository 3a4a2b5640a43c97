"""Pages in a real browser: the environment `browser` of tox runs them, with Chromium and two packages of npm."""
