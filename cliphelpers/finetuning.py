"""Fine-tuning of any encoder: one training loop, two losses, and the way between two models.

A head is a tuple (W, b) of float32 arrays, (D, C) and (C,); its scores are ``X @ W + b`` with the
embeddings X of :func:`embed`.
"""

import copy
import io
import math
from collections import deque
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import astuple, dataclass, replace
from pathlib import Path
from threading import Event

import numpy as np
import pandas as pd
import torch
from torch import nn
from torch.nn import functional
from tqdm import tqdm

from cliphelpers.cache import cache_folder, kept, key_of, load_arrays, save_arrays
from cliphelpers.classifiers import NearestMean, normalize
from cliphelpers.data import targets
from cliphelpers.encoders import Encoder
from cliphelpers.features import extract_features
from cliphelpers.images import digests, read_image
from cliphelpers.parallel import CORES, thread_pool

FORMAT = "1"  # part of every key: raise it when training itself changes
WEIGHT_DECAY = 0.05  # of matrices and kernels alone
WARM_UP = 0.1  # share of the steps
CLIP_NORM = 1.0  # of the gradient
TEMPERATURE = 0.1  # of the contrastive loss, as in Khosla et al. 2020
GROUP = 4  # pictures of one class that stand together in a batch of the contrastive loss
TILT, CROP = 15, 0.8  # augmentation: largest angle in degrees, smallest share of the side
LOSS_BLOCK = 1024  # pictures of which validation takes the contrastive loss at once
IN_MEMORY = 1 << 29  # bytes: a training with less keeps its pictures decoded
CURVES = ["epoch", "part", "loss", "accuracy"]
CURVE_COLUMNS = [
    "experiment", "dataset", "split", "encoder", "features", "method", "shots", "seed",
    "fold", "chosen", *CURVES,
]  # fmt: skip


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
    index : DataFrame
    train, val : int arrays
        Rows of the index to learn from and to choose the epoch on; ``val`` can be empty.
    recipe : Recipe
    seed : int
        Of the order and the augmentation.
    head : tuple of arrays (W, b), optional
        Where the head starts. With a head the loss is cross-entropy (ML), without one
        :func:`contrastive_loss` (CS).
    """

    encoder: Encoder
    index: pd.DataFrame
    train: np.ndarray
    val: np.ndarray
    recipe: Recipe
    seed: int = 0
    head: tuple | None = None


@dataclass(frozen=True, eq=False)
class FineTuned:
    """What came of a training: the weights of the epoch that validation chose.

    Attributes
    ----------
    encoder : Encoder
        As any other: for ``extract_features``, :func:`embed` and every classifier.
    head : tuple of arrays (W, b), or None
    epoch : int
        The chosen one; 0 is the start.
    curves : DataFrame
        Columns epoch, part ("train" or "validation"), loss and accuracy. Of the training part
        as it was learnt from, augmented and while the weights moved; of the validation part
        after the epoch, and also before the first one.
    """

    encoder: Encoder
    head: tuple | None
    epoch: int
    curves: pd.DataFrame


def embed(encoder, index, rows=None):
    """What heads stand on: float32 array, shape (N, D).

    Of a CLIP the joint embedding of length 1 times the logit scale, so that text weights are a
    head (without bias); of other encoders the features as they are.

    Parameters
    ----------
    encoder : Encoder
    index : DataFrame
    rows : int array, optional
        Rows of the index that are wanted; the array's other rows are not a number. By default
        all.
    """
    some = index if rows is None else index.iloc[rows]
    if encoder.projection is None:
        X = extract_features(encoder, some)
    else:
        X = encoder.logit_scale * normalize(extract_features(encoder, some, joint=True))
    if rows is None:
        return X
    whole = np.full((len(index), X.shape[1]), np.nan, np.float32)
    whole[rows] = X
    return whole


# ------------------------------------------------------------------------------- training


def fine_tune(training):
    """Train an encoder, or take what an earlier call has kept.

    AdamW (Loshchilov and Hutter, Decoupled weight decay regularization, 2019) with warm-up and
    cosine, clipped gradients, and bfloat16 on GPUs that have it. The network stays in
    evaluation mode: batch norms keep the statistics of their pre-training, which small batches
    would only blur. Of the start and all epochs, the one with the highest validation accuracy
    is taken (of equals the one with the lowest loss); without validation pictures the last.

    After each epoch the state is kept on disk: an interrupted training goes on there and ends
    with the same numbers. The result is kept under the content of the pictures, the weights and
    the recipe.

    Parameters
    ----------
    training : Training

    Returns
    -------
    FineTuned

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
    arrays = _finish(training, Event())
    curves = pd.DataFrame({name: arrays.pop(name) for name in CURVES})
    epoch = int(arrays.pop("chosen"))
    model = _Model(training.encoder, training.head)
    model.load_state_dict({name: torch.from_numpy(value) for name, value in arrays.items()})
    encoder = replace(
        training.encoder,
        name=f"{training.encoder.name}, fine-tuned",
        module=model.tower,
        projection=model.projection,
    )
    head = model.head and (model.head.weight.detach().T.numpy(), model.head.bias.detach().numpy())
    return FineTuned(encoder, head, epoch, curves)


def fine_tune_all(trainings):
    """Train all, so that :func:`fine_tune` has only to take what is kept.

    One after the other on a GPU, on a CPU side by side on a thread each. An error or an
    interrupt stops all of them; each loses at most the epoch it is in.

    Parameters
    ----------
    trainings : list of Training
    """
    cpu = all(training.encoder.device == "cpu" for training in trainings)
    stop = Event()
    with thread_pool() if cpu else ThreadPoolExecutor(1) as pool:
        futures = [pool.submit(_finish, training, stop) for training in trainings]
        try:
            for future in tqdm(as_completed(futures), total=len(futures), unit="training"):
                future.result()
        except BaseException:
            stop.set()
            pool.shutdown(cancel_futures=True)
            raise


def _finish(training, stop):
    """The arrays of a finished training, from disk if they are there."""
    encoder, y = training.encoder, targets(training.index)
    files = digests(training.index.path.iloc[np.concatenate([training.train, training.val])])
    data = (files, y[training.train], y[training.val], int(y.max()))
    projection = encoder.projection and encoder.projection.state_dict()
    projection = projection and {name: value.cpu().numpy() for name, value in projection.items()}
    start = (encoder.key, projection, encoder.logit_scale, training.head)
    parts = (FORMAT, *data, *start, astuple(training.recipe), training.seed)
    checkpoint = cache_folder() / "checkpoints" / f"{key_of(*parts)}.npz"
    arrays = kept("fine-tuned", parts, lambda: _train(training, y, checkpoint, stop))
    checkpoint.unlink(missing_ok=True)
    return arrays


def _train(training, y, checkpoint, stop):
    run = _Run(training, y)
    if (saved := load_arrays(checkpoint)) is not None:
        run.restore(torch.load(io.BytesIO(saved["torch"].tobytes()), weights_only=True))
    else:
        run.validate()
    epochs, size = training.recipe.epochs, len(run.train.y)
    with tqdm(
        total=epochs * size, initial=run.epoch * size, unit="image", desc=run.title,
        leave=False, mininterval=2,
    ) as bar:  # fmt: skip
        while run.epoch < epochs:
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
        self.encoder, self.recipe, self.seed = training.encoder, training.recipe, training.seed
        self.title = f"{self.encoder.name}, {'ML' if training.head else 'CS'}"
        self.train = _Pictures(self.encoder, training.index, training.train, y)
        self.val = _Pictures(self.encoder, training.index, training.val, y)
        if not training.head and self.train.y.bincount().max() < 2:
            raise FineTuneError("CS pulls pictures of one class together: give 2 a class or more")
        self.model = _Model(self.encoder, training.head)
        self.model.to(self.encoder.device).requires_grad_(True)
        steps = self.recipe.epochs * math.ceil(len(self.train.y) / self.recipe.batch)
        self.optimizer = torch.optim.AdamW(parameter_groups(self.model, self.recipe))
        self.schedule = torch.optim.lr_scheduler.LambdaLR(
            self.optimizer, lambda step: warm_cosine(step, steps)
        )
        self.generator = torch.Generator().manual_seed(self.seed)  # threads share torch's own
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
        bar.set_postfix(loss=f"{total / len(y):.3f}", accuracy=f"{self.curves[-1][3]:.1%}")

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
        return torch.cat([self._outputs(_to_float(pictures)).cpu() for _, pictures in batches])

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
        self.tower, self.projection = copy.deepcopy((encoder.module, encoder.projection))
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


def _to_float(pictures):
    """uint8 (B, S, S, 3) -> float (B, 3, S, S) in [0, 1], channels last in memory."""
    return pictures.permute(0, 3, 1, 2).float() / 255


# ------------------------------------------------------------------------------- its parts


def augment(pictures, generator):
    """Turn by quarters and a little more, mirror, and crop, on white: for fruit on white.

    Parameters
    ----------
    pictures : uint8 tensor, shape (B, S, S, 3)
    generator : torch.Generator

    Returns
    -------
    float tensor, shape (B, 3, S, S)
        In [0, 1].
    """
    count = len(pictures)

    def uniform(low, high):
        return torch.empty(count).uniform_(low, high, generator=generator)

    angle = torch.randint(4, (count,), generator=generator) * (math.pi / 2)
    angle = angle + uniform(-math.radians(TILT), math.radians(TILT))
    mirror = torch.randint(2, (count,), generator=generator) * 2 - 1
    side = uniform(CROP, 1)
    x, y = (1 - side) * uniform(-1, 1), (1 - side) * uniform(-1, 1)
    cos, sin = side * angle.cos(), side * angle.sin()
    maps = torch.stack([cos * mirror, -sin, x, sin * mirror, cos, y], 1).view(-1, 2, 3)
    ink = 1 - _to_float(pictures)  # what is outside becomes 0, and so white
    grid = functional.affine_grid(maps, ink.shape, align_corners=False)
    turned = functional.grid_sample(ink, grid, align_corners=False)
    return (1 - turned).contiguous(memory_format=torch.channels_last)


def parameter_groups(model, recipe):
    """AdamW's groups of a model with the part ``head`` or without: list of dict.

    Weight decay is for the weights of linear layers and convolutions alone: not for biases,
    norms and other vectors, nor for free parameters such as class tokens and positions.
    """
    groups = {}
    for name, value in model.named_parameters():
        head = name.startswith("head.")
        decay = WEIGHT_DECAY if value.ndim > 1 and name.endswith("weight") else 0.0
        groups.setdefault((head, decay), []).append(value)
    size = model.head.weight.detach().square().mean().sqrt().item() if model.head else 1.0
    rates = {False: recipe.rate, True: recipe.head_rate * (size or 1.0)}
    return [
        {"params": values, "lr": rates[head], "weight_decay": decay}
        for (head, decay), values in groups.items()
    ]


def warm_cosine(step, steps):
    """The learning rate's factor: a rising line, then half a cosine down to 0.

    Loshchilov and Hutter, SGDR: stochastic gradient descent with warm restarts, 2017, equation 5,
    without restarts.
    """
    warm = max(round(WARM_UP * steps), 1)
    if step < warm:
        return (step + 1) / warm
    return 0.5 * (1 + math.cos(math.pi * (step - warm) / max(steps - warm, 1)))


def contrastive_loss(Z, y):
    """Pull embeddings of one class together and others apart, by cosine similarity.

    With the rows z of length 1, the others A(i) of the batch and those of i's class P(i):
    ``mean_i -1/|P(i)| sum_{p in P(i)} log(exp(z_i z_p / t) / sum_{a in A(i)} exp(z_i z_a / t))``
    over the i with others of their class (Khosla et al., Supervised contrastive learning, 2020,
    equation 2).

    Parameters
    ----------
    Z : float tensor, shape (B, D)
    y : int tensor, shape (B,)

    Returns
    -------
    float tensor, shape ()
        0 if there are no two of a class.
    """
    Z = functional.normalize(Z, dim=1)
    self_ = torch.eye(len(y), dtype=torch.bool, device=Z.device)
    log_p = torch.log_softmax((Z @ Z.T / TEMPERATURE).masked_fill(self_, -math.inf), dim=1)
    same = (y[:, None] == y) & ~self_
    pulled = same.sum(1)
    losses = -torch.where(same, log_p, 0.0).sum(1) / pulled.clamp(min=1)
    return losses.sum() / (pulled > 0).sum().clamp(min=1)


def save_curves(curves, results, output):
    """Write the curves of several trainings to ``<output>/results/<experiment>_curves.csv``.

    Parameters
    ----------
    curves : list of DataFrame
        ``FineTuned.curves`` with the columns split, encoder, features, method, shots, seed, fold
        (a number) and chosen (the epoch that was taken) added.
    results : Results
        Gives the names of the experiment and of the data set.
    output : str or Path

    Returns
    -------
    DataFrame
        As written, in tidy rows.
    """
    names = {"experiment": results.experiment, "dataset": results.dataset}
    table = pd.concat(curves, ignore_index=True).assign(**names)[CURVE_COLUMNS]
    path = Path(output) / "results" / f"{results.experiment}_curves.csv"
    path.parent.mkdir(parents=True, exist_ok=True)
    table.to_csv(path, index=False, float_format="%.6f", lineterminator="\n")
    return table


# ------------------------------------------------------------------------------- WiSE-FT


def interpolate(start, end, alpha):
    """Weights between two models of one architecture, encoder and head alike (WiSE-FT).

    ``(1 - alpha) start + alpha end`` for every weight (Wortsman et al., Robust fine-tuning of
    zero-shot models, 2022, section 3).

    Parameters
    ----------
    start, end : tuple of (Encoder, head)
        Zero-shot and fine-tuned; a head is a tuple of arrays (W, b).
    alpha : float
        0 gives the start, 1 the end.

    Returns
    -------
    tuple of (Encoder, head)
    """
    (encoder, head), (tuned, tuned_head) = start, end
    mixed = copy.deepcopy((encoder.module, encoder.projection))
    for module, other in zip(mixed, (tuned.module, tuned.projection), strict=True):
        if module is not None:
            other = other.state_dict()
            for name, value in module.state_dict().items():
                if value.is_floating_point():
                    value.copy_((1 - alpha) * value + alpha * other[name])
    pairs = zip(head, tuned_head, strict=True)
    head = tuple((1 - alpha) * first + alpha * second for first, second in pairs)
    name = f"{encoder.name}, WiSE-FT {alpha:g}"
    return replace(encoder, name=name, module=mixed[0], projection=mixed[1]), head


def wise_ft_curve(table):
    """Accuracy against alpha, from the result rows of one encoder and split.

    Parameters
    ----------
    table : DataFrame
        Result rows; the methods that count are "WiSE-FT alpha=0.5" and so on.

    Returns
    -------
    DataFrame
        Columns value, low and high, means over the seeds; the index is alpha, rising.
    """
    alpha = table.method.str.extract(r"^WiSE-FT alpha=([\d.]+)$")[0].astype(float).rename("alpha")
    return table.groupby(alpha)[["value", "low", "high"]].mean()
