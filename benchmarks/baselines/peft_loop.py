"""Measure a sequential `peft` loop: one resident model per process, one client after another."""

from baselines import launch

if __name__ == "__main__":
    launch.main(launch.System("peft_loop", "baselines.peft_worker"))
