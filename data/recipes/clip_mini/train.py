"""Step 6: train one tower. Run up to two side by side, one thread each.

    python data/recipes/clip_mini/train.py text|vit|rn [--labels] [--minutes M | --steps N]

`text` learns the texts' MiniLM components; `vit` and `rn` learn the teacher's targets, or, with
--labels, EfficientNet-Lite0's ImageNet classes on the same pictures with the same schedule (the
twins). Minutes are minutes of processor time, so that a busy machine changes nothing. Goes on
from its checkpoint after a stop, also with other --minutes: the schedule adapts. Writes
NAME.pt (checkpoint with its moving average) and NAME.csv (losses) into the work folder.
"""

import argparse
import csv
import math
import time

import numpy as np
import torch
from common import JOINT, SIDE, add_work, read_table, save, unit, use_one_thread
from teacher import encoded, read_parts
from torch import nn
from torch.nn.functional import cosine_similarity, kl_div
from towers import VISION, WIDTH, ImageTower, build, encode_text, normalise, tokenize

RATE = {"text": 1.5e-3, "vit": 1e-3, "rn": 1.2e-3}
BATCH = {"text": 256, "vit": 64, "rn": 64}
STAGES = {"vit": ((0.7, 128), (1.0, 224)), "rn": ((0.7, 96), (0.85, 128), (1.0, 160))}
MIXTURE = {"bridge": 0.25, "patch": 0.27, "photo": 0.13, "food cutout": 0.2, "cutout": 0.15}
ANCHORS, SHARPNESS = 1024, 20.0
LONGEST = 15
DECAY, WARMUP = 0.998, 150
LOG_EVERY, SAVE_EVERY = 25, 60


class TextTask:
    """The text tower against MiniLM's principal components; the longest texts are left out."""

    def __init__(self, work):
        rows = read_table(work / "texts.tsv")
        self.weights = torch.tensor([float(row["weight"]) for row in rows])
        self.targets = torch.from_numpy(np.load(work / "texts.npy"))
        tokens = tokenize(row["text"] for row in rows)
        self.ends = tokens.argmax(1)
        self.weights[self.ends > LONGEST] = 0
        self.vocabulary, compact = tokens.unique(return_inverse=True)
        self.tokens = compact.reshape(tokens.shape)
        self.batches = []
        self.model = build("vit")
        self.model.visual = None
        self.model.text_projection.data.mul_(0.05)
        seen = self.model.token_embedding.weight[self.vocabulary].detach().clone()
        self.model.token_embedding = nn.Embedding.from_pretrained(seen, freeze=False)

    def modules(self):
        """What is trained, saved and averaged."""
        return nn.ModuleDict({"model": self.model})

    def extra(self):
        """What the export needs besides the weights."""
        return {"vocabulary": self.vocabulary}

    def rows(self):
        """A random batch of texts of about one length, which wastes no time on padding."""
        if not self.batches:
            drawn = torch.multinomial(self.weights, 8 * BATCH["text"], replacement=True)
            batches = drawn[self.ends[drawn].argsort()].split(BATCH["text"])
            self.batches = [batches[n] for n in torch.randperm(len(batches))]
        return self.batches.pop()

    def loss(self, _progress):
        """Losses of one random batch."""
        rows = self.rows()
        ends, target = self.ends[rows], self.targets[rows]
        tokens = self.tokens[rows, :int(ends.max()) + 1]
        out = encode_text(self.model, self.model.token_embedding.weight, tokens, ends)
        cosine = 1 - cosine_similarity(out, target).mean()
        anchors = unit(self.targets[torch.multinomial(self.weights, ANCHORS)])
        return {"cosine": 3 * cosine, "relation": relation(unit(out), unit(target), anchors),
                "distance": (out - target).pow(2).sum(-1).mean()}


class ImageTask:
    """An image tower against the teacher's targets or, as a twin, ImageNet's classes."""

    def __init__(self, work, kind, labels):
        self.kind, self.labels = kind, labels
        self.views = np.load(work / "views.npy", mmap_mode="r")
        self.features = read_parts(work, "features")
        self.weights = mixture(read_table(work / "views.tsv"), encoded(self.features))
        self.model = build(kind).visual
        if kind == "rn":
            self.model = self.model.to(memory_format=torch.channels_last)
        self.tower = ImageTower(kind, self.model)
        self.to_features = nn.Linear(WIDTH[kind], self.features.shape[1])
        self.to_labels = nn.Linear(JOINT, 1000)
        if labels:
            self.targets = read_parts(work, "logits")
        else:
            teacher = torch.load(work / "teacher.pt")
            self.targets = teacher["image"]
            self.anchors = teacher_texts(work, teacher)
            self.anchor_weights = torch.tensor(
                [float(row["weight"]) for row in read_table(work / "texts.tsv")])

    def modules(self):
        """What is trained, saved and averaged."""
        parts = {"model": self.model, "to_features": self.to_features}
        return nn.ModuleDict(parts | ({"to_labels": self.to_labels} if self.labels else {}))

    def extra(self):
        """What the export needs besides the weights."""
        return {}

    def loss(self, progress):
        """Losses of one random batch at the resolution of the stage."""
        size = next(size for end, size in STAGES[self.kind] if progress <= end)
        rows = torch.multinomial(self.weights, BATCH[self.kind], replacement=True)
        joint, inner = self.tower(normalise(self.pictures(rows), size))
        features = self.features[rows].float()
        result = {"features": 1 - cosine_similarity(self.to_features(inner), features).mean()}
        target = self.targets[rows].float()
        if self.labels:
            return result | {"labels": kl_div(self.to_labels(joint).log_softmax(-1),
                                              target.softmax(-1), reduction="batchmean")}
        anchors = self.anchors[torch.multinomial(self.anchor_weights, ANCHORS)]
        return result | {"cosine": 2 * (1 - cosine_similarity(joint, target).mean()),
                         "relation": relation(unit(joint), unit(target), anchors)}

    def pictures(self, rows):
        """Views mirrored, turned by quarters and slightly cropped at random."""
        batch = np.stack([self.views[row] for row in rows.tolist()])
        if np.random.random() < 0.5:
            batch = batch[:, :, ::-1]
        if np.random.random() < 0.3:
            batch = np.rot90(batch, np.random.randint(1, 4), axes=(1, 2))
        side = np.random.randint(int(0.88 * SIDE), SIDE + 1)
        top, left = np.random.randint(0, SIDE - side + 1, 2)
        return np.ascontiguousarray(batch[:, top:top + side, left:left + side])


def relation(student, teacher, anchors):
    """How the student's softmax over the anchors differs from the teacher's."""
    wanted = (SHARPNESS * teacher @ anchors.T).softmax(-1)
    return kl_div((SHARPNESS * student @ anchors.T).log_softmax(-1), wanted,
                  reduction="batchmean")


def mixture(views, ready):
    """Each view's chance to be drawn; held-out and unencoded views have none."""
    groups = ["food cutout" if v["kind"] == "cutout" and v["food"] == "1" else v["kind"]
              for v in views]
    groups = [g if v["split"] == "train" and ok else "" for g, v, ok
              in zip(groups, views, ready, strict=True)]
    return torch.tensor([MIXTURE[g] / groups.count(g) if g else 0.0 for g in groups])


def teacher_texts(work, teacher):
    """All texts in the joint space."""
    texts = torch.from_numpy(np.load(work / "texts.npy"))
    return unit(texts @ teacher["text"]["weight"].T + teacher["text"]["bias"])


def optimizer_of(modules, rate):
    """AdamW that decays matrices only."""
    parameters = [p for p in modules.parameters() if p.requires_grad]
    return torch.optim.AdamW([{"params": [p for p in parameters if p.ndim > 1]},
                              {"params": [p for p in parameters if p.ndim < 2],
                               "weight_decay": 0.0}], lr=rate, weight_decay=0.05,
                             betas=(0.9, 0.98))


@torch.no_grad()
def average(mean, modules, step):
    """Move the moving average towards the weights, faster in the beginning."""
    keep = min(DECAY, (1 + step) / (10 + step))
    for name, value in modules.state_dict().items():
        if value.is_floating_point():
            mean[name].lerp_(value, 1 - keep)
        else:
            mean[name].copy_(value)


class Run:
    """A training run that can be stopped at any time and goes on from its checkpoint."""

    def __init__(self, name, task, rate, path):
        self.name, self.task, self.rate, self.path = name, task, rate, path
        self.modules = task.modules()
        self.optimizer = optimizer_of(self.modules, rate)
        self.mean = {k: v.clone() for k, v in self.modules.state_dict().items()}
        self.step, self.seconds = 0, 0.0
        if path.exists():
            state = torch.load(path)
            self.modules.load_state_dict(state["modules"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.mean, self.step, self.seconds = state["mean"], state["step"], state["seconds"]

    def save(self):
        """Write the checkpoint."""
        save(self.path, {"modules": self.modules.state_dict(), "mean": self.mean,
                         "optimizer": self.optimizer.state_dict(), "step": self.step,
                         "seconds": self.seconds, **self.task.extra()})

    def advance(self, progress):
        """One step of the optimizer; the losses as numbers."""
        rate = self.rate * min(1, (self.step + 1) / WARMUP)
        rate *= 0.01 + 0.99 * (1 + math.cos(math.pi * progress)) / 2
        for parameters in self.optimizer.param_groups:
            parameters["lr"] = rate
        losses = self.task.loss(progress)
        self.optimizer.zero_grad()
        sum(losses.values()).backward()
        nn.utils.clip_grad_norm_(self.modules.parameters(), 1.0)
        self.optimizer.step()
        self.step += 1
        average(self.mean, self.modules, self.step)
        return {name: loss.item() for name, loss in losses.items()}

    def train(self, minutes, steps):
        """Train until the minutes or steps are used up."""
        table, totals, saved = self.path.with_suffix(".csv"), {}, self.seconds
        while True:
            progress = self.step / steps if steps else self.seconds / 60 / minutes
            if progress >= 1:
                break
            start = time.process_time()
            for name, value in self.advance(progress).items():
                totals.setdefault(name, []).append(value)
            self.seconds += time.process_time() - start
            if self.step % LOG_EVERY == 0:
                log(table, {"step": self.step, "seconds": round(self.seconds),
                            **{k: round(float(np.mean(v)), 4) for k, v in totals.items()}})
                totals = {}
            if self.seconds - saved > SAVE_EVERY:
                self.save()
                saved = self.seconds
        self.save()
        print(f"{self.name}: {self.step} steps in {self.seconds:.0f} s")


def log(path, row):
    """Append a line to a table of losses."""
    fresh = not path.exists()
    with open(path, "a", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, row)
        if fresh:
            writer.writeheader()
        writer.writerow(row)


def main():
    """Train one tower."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_work(parser)
    parser.add_argument("tower", choices=["text", *VISION])
    parser.add_argument("--labels", action="store_true", help="train the ImageNet twin")
    parser.add_argument("--minutes", type=float, default=40)
    parser.add_argument("--steps", type=int, default=0, help="instead of minutes")
    args = parser.parse_args()

    use_one_thread()
    torch.manual_seed(0)
    if args.tower == "text":
        name, task = "text", TextTask(args.work)
    else:
        name = f"{args.tower}-labels" if args.labels else args.tower
        task = ImageTask(args.work, args.tower, args.labels)
    run = Run(name, task, RATE[args.tower], args.work / f"{name}.pt")
    torch.manual_seed(run.step)
    np.random.seed(run.step)
    run.train(args.minutes, args.steps)


if __name__ == "__main__":
    main()
