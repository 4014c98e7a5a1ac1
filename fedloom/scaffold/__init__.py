"""The files that `fedloom new` writes."""
