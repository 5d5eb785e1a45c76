"""Figures for the README and the record: each module prints a table and writes `--json FILE`."""
