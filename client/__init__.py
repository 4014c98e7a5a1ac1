"""One device of a live federation: it checks in, trains on its own data, and sends updates."""
