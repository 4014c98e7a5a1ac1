"""Measure Apple's `pfl` simulator with as many processes as asked for."""

from baselines import launch

if __name__ == "__main__":
    launch.main(launch.System("pfl_sim", "baselines.pfl_worker"))
