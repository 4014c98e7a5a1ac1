"""Apps of Flower, run by fedloom; and jobs of fedloom as apps. Needs ``fedloom[flower]``."""
