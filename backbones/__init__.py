"""The frozen side: load a backbone, cut it into blocks, run it."""
