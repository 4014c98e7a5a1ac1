"""Who trains on what, and how updates become the next model."""
