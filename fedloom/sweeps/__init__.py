"""Packaged sweeps: grids of jobs for `fedloom sweep NAME`."""
