"""Thousands of virtual clients on one machine."""
