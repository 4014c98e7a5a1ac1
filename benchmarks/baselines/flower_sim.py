"""Measure Flower's simulator on Ray, one actor for each process asked for."""

from baselines import launch

# Nothing is sent anywhere, and Ray's actors run at the usual priority (its default is the lowest).
_ENVIRONMENT = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_worker_niceness": "0",
}

if __name__ == "__main__":
    launch.main(
        launch.System(
            "flower_sim",
            "baselines.flower_worker",
            spawns_itself=True,
            environment=_ENVIRONMENT,
        )
    )
