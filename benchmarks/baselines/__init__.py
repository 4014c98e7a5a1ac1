"""The federated work of the simulator benchmark, done by other systems."""
