"""Products with weights that are stored in fewer bits, by whatever this machine does best."""
