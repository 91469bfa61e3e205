"""Train one image classifier, or a sweep of them with -m: python train.py scheduler=multistep epochs=50 seed=1."""

import hydra
from omegaconf import DictConfig

from harness.app.main import main, run_job
from harness.errors import run_script


@hydra.main(config_path="conf", config_name="config", version_base="1.3")
def train(config: DictConfig) -> None:
    """One job of Hydra; conf/ says what can be set, harness/runs/run.py what happens."""
    run_job(config)


if __name__ == "__main__":
    run_script(lambda: main(train))
