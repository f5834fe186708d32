"""One training on several workers of a Ray cluster: each takes its share of every batch."""

import signal
from dataclasses import replace
from tempfile import TemporaryDirectory
from threading import Event

from tqdm import tqdm

from cliphelpers.cache import cache_folder
from cliphelpers.encoders.encoder import default_device
from cliphelpers.parallel import join_cluster

try:
    import ray
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer
except ImportError as error:
    words = "CLIPHELPERS_WORKERS takes more packages: pip install -e '.[cluster]'"
    raise RuntimeError(words) from error


def train_on_workers(training, checkpoint, count, train):
    """Leave the checkpoint of a training's last epoch, computed by Ray Train.

    All workers go through the same batches and augmentation, and sum their gradients, so that the
    training is that of one process but for rounding. If one is lost, all start again at the last
    epoch's checkpoint, three times at most.

    Parameters
    ----------
    training : Training
        With a head. All machines must see its pictures under the same paths.
    checkpoint : Path
        In a folder that all machines share.
    count : int
        Workers, each with a core or, where there are as many, a GPU: of the cluster that
        RAY_ADDRESS names, else of this machine.
    train : function
        ``train(training, checkpoint, bar, stop)``, called by each worker.

    Raises
    ------
    FineTuneError, ImageError
        As without workers.
    RuntimeError
        The cluster has fewer cores, or nobody answers there.
    ray.train.TrainingFailedError
        Workers were lost more than three times; the epochs before are kept.
    """
    join_cluster()
    there = ray.cluster_resources()
    if count > (cores := int(there.get("CPU", 0))):
        raise RuntimeError(f"CLIPHELPERS_WORKERS is {count}, but the Ray cluster has {cores} cores")
    encoder, folder = replace(training.encoder, text=None, tokenizer=None), cache_folder().resolve()
    config = {"training": replace(training, encoder=encoder), "checkpoint": checkpoint.resolve()}
    folder.mkdir(parents=True, exist_ok=True)
    ours = signal.getsignal(signal.SIGINT)
    try:
        with TemporaryDirectory(dir=folder) as storage:
            run = RunConfig(
                storage_path=storage, failure_config=FailureConfig(max_failures=3),
                worker_runtime_env={"env_vars": {"CLIPHELPERS_CACHE": str(folder)}},
            )  # fmt: skip
            scale = ScalingConfig(num_workers=count, use_gpu=there.get("GPU", 0) >= count)
            more = {"scaling_config": scale, "run_config": run}
            trainer = TorchTrainer(_work, train_loop_config=config | {"train": train}, **more)
            error = trainer.fit().return_value
    finally:
        signal.signal(signal.SIGINT, ours)  # Ray Train leaves its own
    if error:
        raise error


def _work(config):
    """None, or an error that would come again: of a picture, or of the training itself."""
    training = config["training"]
    encoder = replace(training.encoder, device=default_device())
    training = replace(training, encoder=encoder)
    try:
        config["train"](training, config["checkpoint"], tqdm(disable=True), Event())
    except Exception as error:
        if not type(error).__module__.startswith("cliphelpers."):
            raise
        return error
