"""Packaged configurations: named methods of the field."""
