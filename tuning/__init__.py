"""The trainable side: adapters, and how a cohort of clients is trained as one batch."""
