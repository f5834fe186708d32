"""Training on several workers of a Ray cluster: each takes its share of every batch."""

import os
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


def train_on_workers(trainings, count, finish):
    """Finish trainings, one after the other, by Ray Train, and leave their results on disk.

    All workers go through the same batches and augmentation, and sum their gradients, so that a
    training is that of one process but for rounding. If one is lost, all start again at the last
    epoch's checkpoint, three times at most.

    Parameters
    ----------
    trainings : list of Training
        With heads. All machines must see their pictures under the same paths, and the folder of
        CLIPHELPERS_CACHE.
    count : int
        Workers, each with a core or, where there are as many, a GPU: of the cluster that
        RAY_ADDRESS names, else of this machine.
    finish : function
        ``finish(training, bar, stop)``, called by each worker.

    Raises
    ------
    FineTuneError, ImageError
        As without workers.
    RuntimeError
        The cluster has fewer cores, a machine of it does not see the folder, or nobody answers.
    ray.train.TrainingFailedError
        Workers were lost more than three times; the epochs before are kept.
    """
    join_cluster()
    there = ray.cluster_resources()
    if count > (cores := int(there.get("CPU", 0))):
        raise RuntimeError(f"CLIPHELPERS_WORKERS is {count}, but the Ray cluster has {cores} cores")
    alone = {"text": None, "tokenizer": None}
    trainings = [replace(one, encoder=replace(one.encoder, **alone)) for one in trainings]
    folder, ours = cache_folder().resolve(), signal.getsignal(signal.SIGINT)
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with TemporaryDirectory(dir=folder) as storage:
            run = RunConfig(
                storage_path=storage, failure_config=FailureConfig(max_failures=3),
                worker_runtime_env={"env_vars": {"CLIPHELPERS_CACHE": str(folder)}},
            )  # fmt: skip
            scale = ScalingConfig(num_workers=count, use_gpu=there.get("GPU", 0) >= count)
            config = {"trainings": trainings, "finish": finish, "storage": storage}
            more = {"scaling_config": scale, "run_config": run}
            trainer = TorchTrainer(_work, train_loop_config=config, **more)
            error = trainer.fit().return_value
    finally:
        signal.signal(signal.SIGINT, ours)  # Ray Train leaves its own
    if error:
        raise error


def _work(config):
    """None, or an error that would come again: of a picture, or of the training itself."""
    if not os.path.isdir(config["storage"]):
        todo = "set CLIPHELPERS_CACHE to a folder that all machines share"
        return RuntimeError(f"A worker does not see {config['storage']}: {todo}")
    try:
        for training in config["trainings"]:
            encoder = replace(training.encoder, device=default_device())
            config["finish"](replace(training, encoder=encoder), tqdm(disable=True), Event())
    except Exception as error:
        if not type(error).__module__.startswith("cliphelpers."):
            raise
        return error
