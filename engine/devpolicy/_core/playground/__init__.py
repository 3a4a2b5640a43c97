"""The playground: the core in a browser's Python, and the page around it.

Owns the page's requests with their answers, and the files that a server hands out. The page runs the same code as the
commands, so a plan there has the digest that the command's has.
"""
