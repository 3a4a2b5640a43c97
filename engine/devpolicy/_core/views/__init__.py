"""What people are shown beside a terminal: pictures of plans, the report, notebooks.

Owns the drawing of a plan as SVG, the page of many verdicts, and the words for devices and hosts that all views share.
Every figure is the plan's; nothing is decided here, and everything that was read from a file is escaped.
"""
