"""What a run leaves behind, whoever ran it: its folder, its rounds, and who watches it."""
