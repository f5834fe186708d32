"""Fine-tuning of any encoder: one training loop, with a head (ML) or by cosine similarity (CS)."""

import io
import math
import os
from concurrent.futures import CancelledError, ThreadPoolExecutor, as_completed
from dataclasses import astuple, dataclass, replace
from functools import cache, partial
from threading import Event

import numpy as np
import pandas as pd
import torch
from timm.optim import param_groups_weight_decay
from torch import distributed, nn, optim

from cliphelpers.cache import as_bytes, kept, kept_path, load_arrays, save_arrays
from cliphelpers.classifiers import NearestMean
from cliphelpers.encoders.encoder import Encoder
from cliphelpers.features import extract_features
from cliphelpers.finetuning.augmentation import AUGMENTATIONS
from cliphelpers.finetuning.model import Model
from cliphelpers.images import digests, read_image
from cliphelpers.index import targets
from cliphelpers.parallel import CORES, thread_pool
from cliphelpers.progress import progress
from cliphelpers.splits import Fold

KIND, FORMAT = "fine-tuned", "2"  # of what is kept; raise FORMAT when training itself changes
WEIGHT_DECAY = 0.05  # of matrices and kernels alone
WARM_UP = 0.1  # share of the steps
CLIP_NORM = 1.0  # of the gradient
PART = 4  # pictures of a batch whose activations a CPU's memory holds at once (ML)
GROUP = 4  # pictures of one class that stand together in a batch of the contrastive loss
LOSS_BLOCK = 1024  # pictures of which validation takes the contrastive loss at once
IN_MEMORY = 1 << 29  # bytes: a training with less keeps its pictures decoded
CURVES = ["epoch", "part", "loss", "accuracy"]


class FineTuneError(RuntimeError):
    """A training that cannot go on. The message says why and what to do."""


@dataclass(frozen=True)
class Recipe:
    """How long and how fast to train, and what pictures go through.

    Attributes
    ----------
    epochs : int
    batch : int
        Pictures in a step.
    rate, head_rate : float
        Largest learning rates: of the encoder, and of the head as a share of the size (root
        mean square) of its first weights, so that it suits features of any scale.
    augmentation : {"photo", "turntable", "none"}
        See :func:`cliphelpers.finetuning.augmentation.choose_augmentation`.
    """

    epochs: int = 4
    batch: int = 32
    rate: float = 1e-4
    head_rate: float = 1e-3
    augmentation: str = "photo"

    def __post_init__(self):
        rates = self.rate, self.head_rate
        if self.epochs < 1 or self.batch < 2 or not all(0 < rate < np.inf for rate in rates):
            least = "1 epoch, batches of 2 pictures and learning rates above 0"
            raise ValueError(f"Fine-tuning takes at least {least}, not {self}")
        if self.augmentation not in AUGMENTATIONS:
            known = ", ".join(AUGMENTATIONS)
            raise ValueError(f"Unknown augmentation {self.augmentation!r}: use one of {known}")


@dataclass(frozen=True, eq=False)
class Training:
    """What one training is made of.

    Attributes
    ----------
    encoder : Encoder
        Where it starts. It stays as it is. Its precision is that of the training's activations.
    fold : Fold
        Its rows ``train`` are learnt from, ``val``, which can be empty, chooses the epoch; its
        ``seed`` is that of the order and the augmentation.
    index : DataFrame
    recipe : Recipe
    head : tuple (W, b), float32 (D, C) and (C,), optional
        Where the head starts, on the encoder's features. With a head the loss is cross-entropy
        (ML), without one :func:`contrastive_loss` (CS).

    Raises
    ------
    ValueError
        The encoder's precision is fp16, in which small gradients vanish.
    """

    encoder: Encoder
    fold: Fold
    index: pd.DataFrame
    recipe: Recipe
    head: tuple | None = None

    def __post_init__(self):
        if self.encoder.precision == "fp16":
            raise ValueError("Small gradients vanish in fp16: fine-tune in bf16, fp32 or auto")

    @property
    def method(self):
        """Its name in results."""
        return "fine-tuned ML" if self.head else "fine-tuned CS"


@dataclass(frozen=True, eq=False)
class FineTuned:
    """What came of a training: the weights of the epoch that validation chose.

    Attributes
    ----------
    training : Training
        What it came of.
    encoder : Encoder
        As any other: for ``extract_features`` and every classifier.
    head : tuple (W, b), or None
    curves : DataFrame
        What the training was (split, encoder, features, method, shots, seed, fold), the
        ``chosen`` epoch, where 0 is the start, and epoch, part ("train" or "validation"), loss
        and accuracy. Of the training part as it was learnt from, augmented and while the
        weights moved; of the validation part after the epoch, and also before the first one.
    """

    training: Training
    encoder: Encoder
    head: tuple | None
    curves: pd.DataFrame


def fine_tune(trainings):
    """Train encoders, or take what earlier calls have kept.

    AdamW (Loshchilov and Hutter, Decoupled weight decay regularization, 2019) with warm-up and
    cosine, and clipped gradients. The network stays in
    evaluation mode: batch norms keep the statistics of their pre-training, which small batches
    would only blur. Of the start and all epochs, the one with the highest validation accuracy
    is taken (of equals the one with the lowest loss); without validation pictures the last.

    Trainings run one after the other on a GPU, on a CPU side by side on a thread each; if the
    environment variable CLIPHELPERS_WORKERS is a number above 1, those with a head on so many
    workers of Ray: see :func:`cliphelpers.finetuning.workers.train_on_workers`. After
    each epoch the state is kept on disk: an interrupted training goes on there and ends with the
    same numbers. The result is kept under the content of the pictures, the weights and the
    recipe. An error or an interrupt stops all trainings; each loses at most the epoch it is in.

    Parameters
    ----------
    trainings : list of Training

    Yields
    ------
    FineTuned
        In the order of the trainings, once all of them are done; read from disk one by one, so
        that memory holds one.

    Raises
    ------
    FineTuneError
        The loss is not finite, no class has two pictures, which CS needs, or CLIPHELPERS_WORKERS
        is no number.
    ImageError
        A picture cannot be read.

    References
    ----------
    Kumar et al., Fine-tuning can distort pretrained features and underperform
    out-of-distribution, 2022, section 3.4: why the head starts from the linear probe.
    """
    cpu = all(training.encoder.device == "cpu" for training in trainings)
    total = sum(training.recipe.epochs * len(training.fold.train) for training in trainings)
    bar, stop = progress(total=total, unit="image", desc="training"), Event()
    workers = os.environ.get("CLIPHELPERS_WORKERS") or "1"
    if not workers.isdecimal():
        raise FineTuneError(f"CLIPHELPERS_WORKERS must be a whole number, not {workers!r}")
    heads = [one for one in trainings if one.head and int(workers) > 1]
    if new := [one for one in heads if not kept_path(KIND, _parts(one)).exists()]:
        from cliphelpers.finetuning.workers import train_on_workers  # here: few have Ray

        train_on_workers(new, int(workers), _finish)
    with bar, thread_pool() if cpu else ThreadPoolExecutor(1) as pool:
        try:
            futures = [pool.submit(_finish, training, bar, stop) for training in trainings]
            for future in as_completed(futures):
                future.result()
        finally:  # after an error or an interrupt no training goes on
            stop.set()
    return map(_tuned, trainings)


def augmented_features(training):
    """Features of the very pictures that a training learns from: augmented, epoch after epoch.

    A probe on them tells what augmentation alone does, without weights that move. They are kept on
    disk.

    Parameters
    ----------
    training : Training
        With a head.

    Returns
    -------
    X : float32 array, shape (V + epochs * N, D)
        Of the encoder where the training starts: of the V pictures of the fold's ``val`` as they
        are, then of the N of its ``train``, epoch after epoch.
    y : int array, shape (V + epochs * N,)
        Their classes.
    fold : Fold
        Their places in X: what to learn from and what chooses; it tests nothing.
    """

    def compute():
        run = _Run(training)
        augment = AUGMENTATIONS[training.recipe.augmentation]
        with torch.inference_mode():
            seen = [
                (run.model.embed(augment(pictures, run.generator)).cpu().numpy(), rows)
                for _ in range(training.recipe.epochs)
                for rows, pictures in run.batches(run.order())
            ]
        X, rows = zip(*seen, strict=True)
        return {"X": np.concatenate(X), "rows": np.concatenate(rows)}

    arrays, val = kept("augmented", _parts(training), compute), training.fold.val
    X = arrays["X"][:0]
    if len(val):
        X = extract_features(training.encoder, training.index, val)[val]
    y = targets(training.index)[np.concatenate([val, arrays["rows"]])]
    train = np.arange(len(val), len(y))
    fold = replace(training.fold, train=train, val=np.arange(len(val)), test=train[:0], fit=train)
    return np.concatenate([X, arrays["X"]]), y, fold


def _tuned(training):
    """The FineTuned of a training that is kept on disk."""
    encoder, fold, arrays = training.encoder, training.fold, _finish(training)
    curves = pd.DataFrame({name: arrays.pop(name) for name in CURVES}).assign(
        split=fold.split, encoder=encoder.name, features=encoder.features, method=training.method,
        shots=fold.shots, seed=fold.seed, fold=fold.number, chosen=int(arrays.pop("chosen")),
    )  # fmt: skip
    model = Model(encoder, training.head)
    model.load_state_dict({name: torch.from_numpy(value) for name, value in arrays.items()})
    return FineTuned(training, *model.parts(), curves)


def _parts(training):
    """All that the result of a training depends on."""
    encoder, fold, y = training.encoder, training.fold, targets(training.index)
    files = digests(training.index.path.iloc[np.concatenate([fold.train, fold.val])])
    data = (files, y[fold.train], y[fold.val], int(y.max()))
    projection = _arrays(encoder.projection.state_dict()) if encoder.joint else None
    start = (encoder.key, projection, encoder.logit_scale, training.head)
    return (FORMAT, *data, *start, astuple(training.recipe), fold.seed or 0)


def _finish(training, bar=None, stop=None):
    """The arrays of a finished training, from disk if they are there."""
    parts = _parts(training)
    checkpoint = kept_path("checkpoints", parts)
    arrays = kept(KIND, parts, lambda: _train(training, checkpoint, bar, stop))
    checkpoint.unlink(missing_ok=True)
    return arrays


def _train(training, checkpoint, bar, stop):
    """The arrays, from the checkpoint on; of several workers the first keeps the state."""
    run = _Run(training)
    if (saved := load_arrays(checkpoint)) is not None:
        run.restore(torch.load(io.BytesIO(saved["torch"].tobytes()), weights_only=True))
    else:
        run.validate()
    while run.epoch < training.recipe.epochs:
        run.learn(bar, stop)
        run.validate()
        if run.rank == 0:
            state = as_bytes(partial(torch.save, run.state()))
            save_arrays(checkpoint, {"torch": np.frombuffer(state, np.uint8)})
    columns = dict(zip(CURVES, map(np.array, zip(*run.curves, strict=True)), strict=True))
    return columns | _arrays(run.best["weights"]) | {"chosen": np.array(run.best["epoch"])}


def _arrays(state):
    """A dict of names to tensors as one of names to arrays."""
    return {name: value.cpu().numpy() for name, value in state.items()}


class _Run:
    """A training under way: the model, all that moves it, and what was seen so far."""

    moving = "model", "optimizer", "schedule"  # the parts with a state of their own

    def __init__(self, training):
        fold, self.training, self.batch = training.fold, training, training.recipe.batch
        self.train, self.val = torch.as_tensor(fold.train), torch.as_tensor(fold.val)
        self.y = torch.from_numpy(targets(training.index))
        if not training.head and self.y[self.train].bincount().max() < 2:
            raise FineTuneError("CS pulls pictures of one class together: give 2 a class or more")
        encoder, paths = training.encoder, training.index.path.to_numpy()

        def read(row):
            return encoder.preprocess(read_image(paths[row]))

        few = (len(fold.train) + len(fold.val)) * 3 * encoder.preprocess.size**2 <= IN_MEMORY
        self.read = cache(read) if few else read
        self.part = PART if training.head and encoder.device == "cpu" else self.batch
        self.model = Model(encoder, training.head)
        self.model.to(encoder.device).requires_grad_(True)
        self.optimizer = optim.AdamW(_parameter_groups(self.model, training.recipe))
        steps = training.recipe.epochs * len(self.train.split(self.batch))
        self.schedule = warm_up_and_cosine(self.optimizer, steps)
        self.generator = torch.Generator().manual_seed(fold.seed or 0)  # its own
        self.epoch, self.curves, self.best = 0, [], None
        several = distributed.is_available() and distributed.is_initialized()
        self.rank = distributed.get_rank() if several else 0
        self.workers = distributed.get_world_size() if several else 1

    def state(self):
        """All that a checkpoint holds: numbers, texts and tensors."""
        state = {name: getattr(self, name).state_dict() for name in self.moving}
        seen = {"epoch": self.epoch, "curves": self.curves, "best": self.best}
        return state | {"generator": self.generator.get_state(), "run": seen}

    def restore(self, state):
        """Go on where a checkpoint was."""
        for name in self.moving:
            getattr(self, name).load_state_dict(state[name])
        self.generator.set_state(state["generator"])
        vars(self).update(state["run"])

    def learn(self, bar, stop):
        """One epoch: every picture once, augmented."""
        self.epoch += 1
        order, outputs, total = self.order(), [], 0.0
        augment = AUGMENTATIONS[self.training.recipe.augmentation]
        for rows, pictures in self.batches(order):
            if stop.is_set():
                raise CancelledError
            pictures, y = augment(pictures, self.generator), self.y[rows]
            Z, loss = self._share(pictures, y)
            outputs.append(Z)
            total += loss * len(rows)
            nn.utils.clip_grad_norm_(self.model.parameters(), CLIP_NORM)
            self.optimizer.step()
            self.schedule.step()
            bar.update(len(rows))
        Z, y = torch.cat(outputs), self.y[order]
        self._note("train", total / len(y), Z, y, Z, y)

    def _share(self, pictures, y):
        """As of the whole batch, of which each worker computes a share: gradients, outputs, loss.

        A worker for whom no picture is left computes the first one, and it does not count.
        """
        if self.workers == 1:
            return self._gradients(pictures, y, len(y))
        own, count = slice(self.rank, None, self.workers), len(y)
        if self.rank >= len(y):
            own, count = slice(1), math.inf
        Z, loss = self._gradients(pictures[own], y[own], count)
        device = self.training.encoder.device
        outputs = torch.zeros(len(y), Z.shape[1], device=device)
        outputs[own] = Z.to(device) * (count == len(y))
        loss = torch.tensor(loss, device=device)
        gradients = [one.grad for one in self.model.parameters() if one.grad is not None]
        for one in (outputs, loss, *gradients):
            distributed.all_reduce(one)
        return outputs.cpu(), loss.item()

    def _gradients(self, pictures, y, count):
        """Gradients of the loss of pictures of a batch of so many, their outputs and their loss.

        Of ML, whose loss is a mean over pictures, part by part, as many as memory holds.
        """
        try:
            self.optimizer.zero_grad()
            outputs, total = [], 0.0
            for some, some_y in zip(pictures.split(self.part), y.split(self.part), strict=True):
                Z = self.model(some)
                loss = self._loss(Z, some_y) * len(some) / count
                loss.backward()
                outputs.append(Z.detach().cpu())
                total += loss.item()
            return torch.cat(outputs), total
        except torch.OutOfMemoryError as error:
            if not self.model.head or self.part == 1:
                name, device = self.training.encoder.name, self.training.encoder.device
                words = f"The memory of {device} does not hold a step of {name}"
                raise FineTuneError(f"{words}: lower batch, now {self.batch}") from error
        self.part = -(-min(self.part, len(y)) // 2)
        return self._gradients(pictures, y, count)

    @torch.no_grad()
    def validate(self):
        """Loss and accuracy on validation, and the best weights so far."""
        score = (self.epoch, 0)
        if len(self.val):
            Z, y = self._outputs(self.val), self.y[self.val]
            known = None if self.model.head else self._outputs(self.train)
            parts = -(-len(Z) // LOSS_BLOCK)  # of every class some, since rows stand by class
            loss = sum(self._loss(Z[part::parts], y[part::parts]).item() for part in range(parts))
            self._note("validation", loss / parts, Z, y, known, self.y[self.train])
            score = (self.curves[-1][3], -loss)
        if self.best is None or score > tuple(self.best["score"]):
            weights = {name: value.clone() for name, value in self.model.state_dict().items()}
            self.best = {"epoch": self.epoch, "score": score, "weights": weights}

    def order(self):
        """Rows of the training part, shuffled; for CS in groups of one class."""
        order = self.train[torch.randperm(len(self.train), generator=self.generator)]
        if self.model.head:
            return order
        y = self.y[order]
        by_class = order[y.argsort(stable=True)].split(y.bincount().tolist())
        groups = [group for members in by_class for group in members.split(GROUP)]
        shuffled = torch.randperm(len(groups), generator=self.generator).tolist()
        return torch.cat([groups[number] for number in shuffled])

    def batches(self, rows):
        """Yield the rows batch by batch, each with its pictures: float (B, 3, S, S) in [0, 1]."""
        with ThreadPoolExecutor(CORES) as pool:
            for some in rows.split(self.batch):
                pictures = torch.from_numpy(np.stack([*pool.map(self.read, some.tolist())]))
                yield some, pictures.permute(0, 3, 1, 2).float() / 255

    def _outputs(self, rows):
        return torch.cat([self.model(some).cpu() for _, some in self.batches(rows)])

    def _loss(self, Z, y):
        loss = self.model.loss(Z, y.to(Z.device))
        if not loss.isfinite():
            what = f"The loss of {self.training.encoder.name}, {self.training.method}"
            todo = f"lower the rates of {self.training.recipe}. The epochs before it are kept"
            raise FineTuneError(f"{what} is not finite in epoch {self.epoch}: {todo}")
        return loss

    def _note(self, part, loss, Z, y, known, known_y):
        """Add to the curves; right is the largest score (ML) or the nearest class mean (CS)."""
        if not self.model.head:
            means = NearestMean().fit(known.numpy(), known_y.numpy(), int(known_y.max()) + 1)
            Z = torch.from_numpy(means.scores(Z.numpy())[0])
        accuracy = (Z.argmax(1) == y).double().mean().item()
        self.curves.append((self.epoch, part, loss, accuracy))


def _parameter_groups(model, recipe):
    """AdamW's groups: rates of the head and of the rest, and where weight decay is.

    Weight decay is for the weights of linear layers and convolutions alone: not for biases,
    norms and other vectors, nor for free parameters such as class tokens and positions.
    """
    groups = []
    for name, part in model.named_children():
        rate = recipe.rate
        if name == "head":
            rate = recipe.head_rate * (part.weight.square().mean().sqrt().item() or 1.0)
        free = [key for key, _ in part.named_parameters() if not key.endswith("weight")]
        made = param_groups_weight_decay(part, WEIGHT_DECAY, no_weight_decay_list=free)
        groups += [group | {"lr": rate} for group in made]
    return groups


def warm_up_and_cosine(optimizer, steps):
    """The learning rate rises in a line for a tenth of the steps, then falls as half a cosine.

    Loshchilov and Hutter, SGDR: stochastic gradient descent with warm restarts, 2017, equation 5,
    without restarts.
    """
    warm = max(round(WARM_UP * steps), 1)
    rise = optim.lr_scheduler.LinearLR(optimizer, 1 / warm, total_iters=warm - 1)
    fall = optim.lr_scheduler.CosineAnnealingLR(optimizer, max(steps - warm, 1))
    return optim.lr_scheduler.SequentialLR(optimizer, [rise, fall], milestones=[warm])
