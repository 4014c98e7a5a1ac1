"""How a cohort turns its data into updates."""
