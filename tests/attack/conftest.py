"""What is collected here: nothing on Windows, where a process has no limits (`resource`) and no forks."""

import sys

collect_ignore_glob = ["test_*.py"] if sys.platform == "win32" else []
