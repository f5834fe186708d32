"""Fine-tuning of any encoder: one training loop, with a head (ML) or by cosine similarity (CS)."""

import copy
import io
import math
from collections import deque
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import astuple, dataclass, replace
from threading import Event

import numpy as np
import pandas as pd
import torch
from timm.optim import param_groups_weight_decay
from torch import nn
from torch.nn import functional
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, SequentialLR

from cliphelpers.cache import cache_folder, kept, key_of, load_arrays, save_arrays
from cliphelpers.classifiers import NearestMean
from cliphelpers.encoders.encoder import Encoder
from cliphelpers.finetuning.augmentation import augment, to_float
from cliphelpers.finetuning.losses import contrastive_loss
from cliphelpers.images import digests, read_image
from cliphelpers.index import targets
from cliphelpers.parallel import CORES, thread_pool
from cliphelpers.progress import progress
from cliphelpers.splits import Fold

FORMAT = "1"  # part of every key: raise it when training itself changes
WEIGHT_DECAY = 0.05  # of matrices and kernels alone
WARM_UP = 0.1  # share of the steps
CLIP_NORM = 1.0  # of the gradient
GROUP = 4  # pictures of one class that stand together in a batch of the contrastive loss
LOSS_BLOCK = 1024  # pictures of which validation takes the contrastive loss at once
IN_MEMORY = 1 << 29  # bytes: a training with less keeps its pictures decoded
CURVES = ["epoch", "part", "loss", "accuracy"]


class FineTuneError(RuntimeError):
    """A training that cannot go on. The message says why and what to do."""


@dataclass(frozen=True)
class Recipe:
    """How long and how fast to train.

    Attributes
    ----------
    epochs : int
    batch : int
        Pictures in a step.
    rate, head_rate : float
        Largest learning rates: of the encoder, and of the head as a share of the size (root
        mean square) of its first weights, so that it suits features of any scale.
    """

    epochs: int = 4
    batch: int = 32
    rate: float = 1e-4
    head_rate: float = 1e-3

    def __post_init__(self):
        if self.epochs < 1 or self.batch < 2:
            raise ValueError(
                "Fine-tuning takes 1 epoch or more and batches of 2 or more pictures, not "
                f"{self.epochs} and {self.batch}"
            )
        for rate in (self.rate, self.head_rate):
            if not 0 < rate < math.inf:
                raise ValueError(f"A learning rate must be a number above 0, not {rate}")


@dataclass(frozen=True, eq=False)
class Training:
    """What one training is made of.

    Attributes
    ----------
    encoder : Encoder
        Where it starts. It stays as it is.
    fold : Fold
        Its rows ``train`` are learnt from, ``val``, which can be empty, chooses the epoch; its
        ``seed`` is that of the order and the augmentation.
    index : DataFrame
    recipe : Recipe
    head : tuple (W, b), float32 (D, C) and (C,), optional
        Where the head starts, on the encoder's features. With a head the loss is cross-entropy
        (ML), without one :func:`contrastive_loss` (CS).
    """

    encoder: Encoder
    fold: Fold
    index: pd.DataFrame
    recipe: Recipe
    head: tuple | None = None

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
    epoch : int
        The chosen one; 0 is the start.
    curves : DataFrame
        What the training was (split, encoder, features, method, shots, seed, fold), ``chosen``,
        and epoch, part ("train" or "validation"), loss and accuracy. Of the training part
        as it was learnt from, augmented and while the weights moved; of the validation part
        after the epoch, and also before the first one.
    """

    training: Training
    encoder: Encoder
    head: tuple | None
    epoch: int
    curves: pd.DataFrame


def fine_tune(trainings):
    """Train encoders, or take what earlier calls have kept.

    AdamW (Loshchilov and Hutter, Decoupled weight decay regularization, 2019) with warm-up and
    cosine, clipped gradients, and bfloat16 on GPUs that have it. The network stays in
    evaluation mode: batch norms keep the statistics of their pre-training, which small batches
    would only blur. Of the start and all epochs, the one with the highest validation accuracy
    is taken (of equals the one with the lowest loss); without validation pictures the last.

    Trainings run one after the other on a GPU, on a CPU side by side on a thread each. After
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
        The loss is not finite, or no class has two pictures, which CS needs.
    ImageError
        A picture cannot be read.

    References
    ----------
    Kumar et al., Fine-tuning can distort pretrained features and underperform
    out-of-distribution, 2022, section 3.4: why the head starts from the linear probe.
    """
    cpu = all(training.encoder.device == "cpu" for training in trainings)
    stop = Event()
    total = sum(training.recipe.epochs * len(training.fold.train) for training in trainings)
    with (
        thread_pool() if cpu else ThreadPoolExecutor(1) as pool,
        progress(total=total, unit="image", desc="training") as bar,
    ):
        futures = [pool.submit(_finish, training, bar, stop) for training in trainings]
        try:
            for future in as_completed(futures):
                future.result()
        except BaseException:
            stop.set()
            pool.shutdown(cancel_futures=True)
            raise
    return (_tuned(training) for training in trainings)


def _tuned(training):
    """The FineTuned of a training that is kept on disk."""
    encoder, fold, arrays = training.encoder, training.fold, _finish(training)
    curves = pd.DataFrame({name: arrays.pop(name) for name in CURVES})
    epoch = int(arrays.pop("chosen"))
    where = {"split": fold.split, "encoder": encoder.name, "features": encoder.features}
    where |= {"method": training.method, "shots": fold.shots, "seed": fold.seed}
    curves = curves.assign(**where, fold=fold.number, chosen=epoch)
    model = _Model(encoder, training.head)
    model.load_state_dict({name: torch.from_numpy(value) for name, value in arrays.items()})
    head = model.head and (model.head.weight.detach().T.numpy(), model.head.bias.detach().numpy())
    encoder = replace(encoder, module=model.tower, projection=model.projection)
    return FineTuned(training, encoder, head, epoch, curves)


def _finish(training, bar=None, stop=None):
    """The arrays of a finished training, from disk if they are there."""
    encoder, fold, y = training.encoder, training.fold, targets(training.index)
    files = digests(training.index.path.iloc[np.concatenate([fold.train, fold.val])])
    data = (files, y[fold.train], y[fold.val], int(y.max()))
    projection = encoder.projection and encoder.projection.state_dict()
    projection = projection and {name: value.cpu().numpy() for name, value in projection.items()}
    start = (encoder.key, projection, encoder.logit_scale, training.head)
    parts = (FORMAT, *data, *start, astuple(training.recipe), fold.seed or 0)
    checkpoint = cache_folder() / "checkpoints" / f"{key_of(*parts)}.npz"
    arrays = kept("fine-tuned", parts, lambda: _train(training, y, checkpoint, bar, stop))
    checkpoint.unlink(missing_ok=True)
    return arrays


def _train(training, y, checkpoint, bar, stop):
    run = _Run(training, y)
    if (saved := load_arrays(checkpoint)) is not None:
        run.restore(torch.load(io.BytesIO(saved["torch"].tobytes()), weights_only=True))
    else:
        run.validate()
    while run.epoch < training.recipe.epochs:
        run.learn(bar, stop)
        run.validate()
        buffer = io.BytesIO()
        torch.save(run.state(), buffer)
        save_arrays(checkpoint, {"torch": np.frombuffer(buffer.getvalue(), np.uint8)})
    columns = dict(zip(CURVES, map(np.array, zip(*run.curves, strict=True)), strict=True))
    weights = {name: value.cpu().numpy() for name, value in run.best["weights"].items()}
    return columns | weights | {"chosen": np.array(run.best["epoch"])}


class _Run:
    """A training under way: the model, all that moves it, and what was seen so far."""

    def __init__(self, training, y):
        self.encoder, self.recipe = training.encoder, training.recipe
        self.title = f"{self.encoder.name}, {training.method}"
        self.train = _Pictures(self.encoder, training.index, training.fold.train, y)
        self.val = _Pictures(self.encoder, training.index, training.fold.val, y)
        if not training.head and self.train.y.bincount().max() < 2:
            raise FineTuneError("CS pulls pictures of one class together: give 2 a class or more")
        self.model = _Model(self.encoder, training.head)
        self.model.to(self.encoder.device).requires_grad_(True)
        steps = self.recipe.epochs * math.ceil(len(self.train.y) / self.recipe.batch)
        self.optimizer = torch.optim.AdamW(_parameter_groups(self.model, self.recipe))
        self.schedule = warm_up_and_cosine(self.optimizer, steps)
        self.generator = torch.Generator().manual_seed(training.fold.seed or 0)  # its own
        device = self.encoder.device
        self.half = device != "cpu" and torch.cuda.is_bf16_supported(including_emulation=False)
        self.epoch, self.curves, self.best = 0, [], None

    def state(self):
        """All that a checkpoint holds: numbers, texts and tensors."""
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "generator": self.generator.get_state(),
            "run": {"epoch": self.epoch, "curves": self.curves, "best": self.best},
        }

    def restore(self, state):
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        self.generator.set_state(state["generator"])
        vars(self).update(state["run"])

    def learn(self, bar, stop):
        """One epoch: every picture once, augmented."""
        self.epoch += 1
        seen, outputs, total = [], [], 0.0
        order = self._order()
        for rows, pictures in self.train.batches(self.recipe.batch, order):
            if stop.is_set():
                raise FineTuneError(f"{self.title} was stopped in epoch {self.epoch}")
            Z = self._outputs(augment(pictures, self.generator))
            loss = self._loss(Z, self.train.y[rows])
            self.optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(self.model.parameters(), CLIP_NORM)
            self.optimizer.step()
            self.schedule.step()
            seen.append(rows)
            outputs.append(Z.detach().cpu())
            total += loss.item() * len(rows)
            bar.update(len(rows))
        Z, y = torch.cat(outputs), self.train.y[torch.cat(seen)]
        self._note("train", total / len(y), self._accuracy(Z, y, Z, y))

    @torch.no_grad()
    def validate(self):
        """Loss and accuracy on validation, and the best weights so far."""
        if len(self.val.y):
            Z = self._all_outputs(self.val)
            means = None if self.model.head else self._all_outputs(self.train)
            parts = -(-len(Z) // LOSS_BLOCK)  # of every class some, since rows stand by class
            losses = [self._loss(Z[part::parts], self.val.y[part::parts]) for part in range(parts)]
            accuracy = self._accuracy(Z, self.val.y, means, self.train.y)
            self._note("validation", float(sum(losses)) / parts, accuracy)
        score = (self.curves[-1][3], -self.curves[-1][2]) if len(self.val.y) else (self.epoch, 0)
        if self.best is None or score > tuple(self.best["score"]):
            weights = {name: value.clone() for name, value in self.model.state_dict().items()}
            self.best = {"epoch": self.epoch, "score": score, "weights": weights}

    def _order(self):
        """Rows of the training part, shuffled; for CS in groups of one class."""
        order = torch.randperm(len(self.train.y), generator=self.generator)
        if self.model.head:
            return order
        sizes = self.train.y.bincount().tolist()
        by_class = order[self.train.y[order].argsort(stable=True)].split(sizes)
        groups = [group for members in by_class for group in members.split(GROUP)]
        shuffled = torch.randperm(len(groups), generator=self.generator).tolist()
        return torch.cat([groups[number] for number in shuffled])

    def _outputs(self, pictures):
        """Scores (ML) or embeddings (CS) of pictures in [0, 1]: (B, C) or (B, D)."""
        with torch.autocast(self.encoder.device, torch.bfloat16, enabled=self.half):
            return self.model(pictures.to(self.encoder.device)).float()

    def _all_outputs(self, part):
        batches = part.batches(self.recipe.batch, torch.arange(len(part.y)))
        return torch.cat([self._outputs(to_float(pictures)).cpu() for _, pictures in batches])

    def _loss(self, Z, y):
        y = y.to(Z.device)
        loss = functional.cross_entropy(Z, y) if self.model.head else contrastive_loss(Z, y)
        if not loss.isfinite():
            raise FineTuneError(
                f"The loss of {self.title} is not finite in epoch {self.epoch}: lower the learning "
                f"rates (encoder {self.recipe.rate:g}, head {self.recipe.head_rate:g}). "
                "What was kept after the epoch before is still there"
            )
        return loss

    def _accuracy(self, Z, y, known, known_y):
        """Share of right answers, of the scores (ML) or of the nearest class mean (CS)."""
        if not self.model.head:
            means = NearestMean().fit(known.numpy(), known_y.numpy(), int(known_y.max()) + 1)
            Z = torch.from_numpy(means.scores(Z.numpy())[0])
        return (Z.argmax(1) == y).double().mean().item()

    def _note(self, part, loss, accuracy):
        self.curves.append((self.epoch, part, loss, accuracy))


class _Model(nn.Module):
    """Image tower, projection to the joint embedding (CLIP) and head (ML), to be trained."""

    def __init__(self, encoder, head):
        super().__init__()
        mean, std = torch.tensor([encoder.preprocess.mean, encoder.preprocess.std])
        self.register_buffer("mean", mean.view(3, 1, 1), persistent=False)
        self.register_buffer("std", std.view(3, 1, 1), persistent=False)
        projection = encoder.projection if encoder.joint else None
        self.tower, self.projection = copy.deepcopy((encoder.module, projection))
        self.scale, self.head = encoder.logit_scale, None
        if head:
            weight, bias = map(torch.as_tensor, head)
            self.head = nn.Linear(*weight.shape)
            self.head.load_state_dict({"weight": weight.T, "bias": bias})

    def forward(self, pictures):
        X = self.tower((pictures - self.mean) / self.std)
        if self.projection is not None:
            X = self.scale * functional.normalize(self.projection(X), dim=-1)
        return X if self.head is None else self.head(X)


class _Pictures:
    """The preprocessed pictures of some rows, in batches of uint8; decoded once if they are few.

    Parameters
    ----------
    encoder : Encoder
    index : DataFrame
    rows : int array
    y : int array
        Class numbers of the whole index.

    Attributes
    ----------
    y : int64 tensor
        Class numbers of the rows.
    """

    def __init__(self, encoder, index, rows, y):
        self.preprocess, self.paths = encoder.preprocess, list(index.path.iloc[rows])
        self.y = torch.from_numpy(y[rows])
        self.few = len(rows) * 3 * encoder.preprocess.size**2 <= IN_MEMORY
        self.decoded = {}

    def batches(self, size, order):
        """Yield (positions, uint8 tensor (B, S, S, 3)); threads decode one batch ahead."""
        ahead = deque()
        with ThreadPoolExecutor(CORES) as pool:
            for rows in [*order.split(size), None]:
                if rows is not None:
                    ahead.append((rows, [pool.submit(self._read, row) for row in rows.tolist()]))
                if len(ahead) > 1 or rows is None:
                    rows, pictures = ahead.popleft()
                    yield rows, torch.from_numpy(np.stack([one.result() for one in pictures]))

    def _read(self, row):
        picture = self.decoded.get(row)
        if picture is None:
            picture = self.preprocess(read_image(self.paths[row]))
            if self.few:
                self.decoded[row] = picture
        return picture


def _parameter_groups(model, recipe):
    """AdamW's groups: rates of the head and of the rest, and where weight decay is.

    Weight decay is for the weights of linear layers and convolutions alone: not for biases,
    norms and other vectors, nor for free parameters such as class tokens and positions.
    """
    size = model.head.weight.detach().square().mean().sqrt().item() if model.head else 1.0
    rates = {"tower": recipe.rate, "projection": recipe.rate}
    rates["head"] = recipe.head_rate * (size or 1.0)
    groups = []
    for name, part in model.named_children():
        free = [key for key, _ in part.named_parameters() if not key.endswith("weight")]
        groups += [
            group | {"lr": rates[name]}
            for group in param_groups_weight_decay(part, WEIGHT_DECAY, free)
        ]
    return groups


def warm_up_and_cosine(optimizer, steps):
    """The learning rate rises in a line for a tenth of the steps, then falls as half a cosine.

    Loshchilov and Hutter, SGDR: stochastic gradient descent with warm restarts, 2017, equation 5,
    without restarts.
    """
    warm = max(round(WARM_UP * steps), 1)
    rise = LinearLR(optimizer, 1 / warm, total_iters=warm - 1)
    fall = CosineAnnealingLR(optimizer, max(steps - warm, 1))
    return SequentialLR(optimizer, [rise, fall], milestones=[warm])
