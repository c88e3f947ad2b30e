"""What the daemon's processes count and time (`instruments`), and the page that Prometheus reads
(`exporter`). What each metric means: docs/operations.md.
"""
