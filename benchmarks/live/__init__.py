"""The parts of the server benchmark: what is started, what loads it, and what is read of it."""
