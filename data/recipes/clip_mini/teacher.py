"""Step 5: the teacher - where each view shall lie in the joint space of pictures and texts.

    python data/recipes/clip_mini/teacher.py [--work FOLDER] [--hold-out kiwi plum ...]

An ensemble of small networks maps EfficientNet-Lite0's features (1280) into the joint space, a
learned linear map does so with the texts' MiniLM components; both are trained with InfoNCE on
captions. Their answer is blended with ConSE (ImageNet's softmax times the class names' texts).
Writes teacher.pt: every view's target, the map of the texts and the figures of the held-out
pictures. --hold-out leaves the named grocery classes out of training, to choose settings for
unseen classes; the targets are then not written.
"""

import argparse
import math
import time

import numpy as np
import torch
from common import JOINT, add_work, read_table, save, unit, use_one_thread
from texts import MiniLM
from timm.data import ImageNetInfo
from torch import nn

BATCH, MEMBERS = 512, 3
SHARES = {"cutout": 0.15, "food cutout": 0.3, "photo": 0.2, "package photo": 0.02, "patch": 0.33}


def read_parts(work, name):
    """Put the parts that features.py wrote back into one array, in the views' order."""
    files = sorted(work.glob(f"{name}-*-of-*.npy"))
    parts = [np.load(file, mmap_mode="r") for file in files]
    out = np.empty((sum(map(len, parts)), parts[0].shape[1]), np.float16)
    for n, part in enumerate(parts):
        out[n::len(parts)] = part
    return torch.from_numpy(out)


def encoded(features):
    """Which rows features.py has filled; it may be stopped early to use fewer views."""
    return (features[:, :64] != 0).any(1).tolist()


def group(view, row):
    """The sampling group of a captioned view."""
    if view["kind"] == "cutout" and row["food"] == "1":
        return "food cutout"
    if view["kind"] == "photo" and row["food"] == "0":
        return "package photo"
    return view["kind"]


def sampling_weights(views, rows, ready, held_out=()):
    """Each view's chance in training: SHARES by group; inside a group names count by roots."""
    groups, names = [], []
    for view, ok in zip(views, ready, strict=True):
        row = rows[int(view["picture"])]
        use = ok and view["kind"] != "bridge" and view["split"] == "train"
        use &= not (row["source"] == "grocery" and row["name"] in held_out)
        groups.append(group(view, row) if use else "")
        names.append(row["name"])
    count = {}
    for key in zip(groups, names, strict=True):
        count[key] = count.get(key, 0) + 1
    total = {g: sum(math.sqrt(n) for (h, _), n in count.items() if h == g) for g in SHARES}
    return torch.tensor([SHARES[g] / total[g] / math.sqrt(count[g, name]) if g else 0.0
                         for g, name in zip(groups, names, strict=True)])


class Member(nn.Module):
    """One network of the ensemble: picture features and texts into the joint space."""

    def __init__(self):
        super().__init__()
        self.image = nn.Sequential(nn.Dropout(0.3), nn.Linear(1280, 512), nn.GELU(),
                                   nn.Dropout(0.5), nn.Linear(512, JOINT))
        self.text = nn.Linear(JOINT, JOINT)
        nn.init.eye_(self.text.weight)
        nn.init.zeros_(self.text.bias)
        self.scale = nn.Parameter(torch.tensor(math.log(15.0)))


def fit(features, captions, embeddings, weights, steps, seed, text=None):
    """Train one member; captions[i] lists the rows of `embeddings` that describe view i.

    The members share one joint space: the first learns the map of the texts, the others keep it.
    """
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    member = Member()
    if text is not None:
        member.text.load_state_dict(text.state_dict())
        member.text.requires_grad_(False)
    slow = [p for p in member.text.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW([{"params": member.image.parameters(), "lr": 1e-3},
                                   {"params": [member.scale], "lr": 1e-3}]
                                  + ([{"params": slow, "lr": 2e-4}] if slow else []),
                                  weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, [g["lr"] for g in optimizer.param_groups], total_steps=steps, pct_start=0.1)
    for _ in range(steps):
        rows = torch.multinomial(weights, BATCH, replacement=True, generator=generator)
        picks = torch.randint(1 << 30, (BATCH,), generator=generator).tolist()
        texts = torch.tensor([captions[r][p % len(captions[r])]
                              for r, p in zip(rows.tolist(), picks, strict=True)])
        loss = contrast(member, features[rows].float(), embeddings[texts])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return member.eval()


def contrast(member, features, texts):
    """InfoNCE whose target spreads over captions that mean nearly the same."""
    with torch.no_grad():
        alike = (unit(texts) @ unit(texts).T / 0.05).softmax(-1)
    image, text = unit(member.image(features)), unit(member.text(texts))
    logits = member.scale.exp().clamp(max=50) * image @ text.T
    return (nn.functional.cross_entropy(logits, alike)
            + nn.functional.cross_entropy(logits.T, alike)) / 2


@torch.no_grad()
def blend(members, features, logits, class_texts, share):
    """The joint embedding of every view: ensemble times (1 - share) plus ConSE times share."""
    out = torch.empty(len(features), JOINT)
    for rows in torch.arange(len(features)).split(4096):
        image = sum(unit(m.image(features[rows].float())) for m in members) / len(members)
        chances, classes = logits[rows].float().softmax(-1).topk(10)
        conse = (chances[..., None] * class_texts[classes]).sum(1)
        conse = unit(members[0].text(conse / chances.sum(-1, keepdim=True)))
        out[rows] = unit((1 - share) * unit(image) + share * conse)
    return out


def held_out_figures(image, text, views, rows, ready, names, only=None):
    """Top-1 and top-5 among `names` on the held-out views, by kind of view."""
    place = {name: n for n, name in enumerate(names)}
    figures = {}
    for kind in ("photo", "patch", "cutout"):
        picked = [n for n, v in enumerate(views)
                  if ready[n] and v["kind"] == kind and v["food"] == "1"
                  and rows[int(v["picture"])]["name"] in (only or place)
                  and (only or v["split"] == "val")]
        if picked:
            labels = torch.tensor([place[rows[int(views[n]["picture"])]["name"]]
                                   for n in picked])
            best = (image[picked] @ text.T).topk(5).indices == labels[:, None]
            figures[kind] = (best[:, 0].float().mean().item(),
                             best.any(1).float().mean().item())
    return figures


def candidate_names(rows):
    """The names to choose from on held-out pictures: those of all photographs of food."""
    return sorted({r["name"] for r in rows if r["food"] == "1"
                   and r["source"] in ("grocery", "tuxpaint")})


def main():
    """Fit the teacher, print its figures, write the targets."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_work(parser)
    parser.add_argument("--steps", type=int, default=800, help="of training, for each member")
    parser.add_argument("--share", type=float, default=0.3, help="of ConSE in the blend")
    parser.add_argument("--centre", type=float, default=0.5,
                        help="how much of the bridges' mean is taken off (against hubs)")
    parser.add_argument("--hold-out", nargs="*", default=[], help="grocery classes to leave out")
    args = parser.parse_args()

    use_one_thread()
    start = time.time()
    views, rows = read_table(args.work / "views.tsv"), read_table(args.work / "pictures.tsv")
    texts = [row["text"] for row in read_table(args.work / "texts.tsv")]
    embeddings = torch.from_numpy(np.load(args.work / "texts.npy"))
    place = {text: n for n, text in enumerate(texts)}
    captions = [[place[c] for c in rows[int(v["picture"])]["captions"].split("|") if c in place]
                for v in views]
    features, logits = read_parts(args.work, "features"), read_parts(args.work, "logits")
    ready = encoded(features)
    weights = sampling_weights(views, rows, ready, args.hold_out)

    members = []
    for seed in range(MEMBERS):
        text = members[0].text if members else None
        members.append(fit(features, captions, embeddings, weights, args.steps, seed, text))
        print(f"member {seed} after {time.time() - start:.0f} s", flush=True)

    pca = torch.load(args.work / "pca.pt")
    info = ImageNetInfo()
    descriptions = [info.index_to_description(n).split(",")[0] for n in range(1000)]
    class_texts = (MiniLM(args.work)(descriptions) - pca["mean"]) @ pca["basis"]
    image = blend(members, features, logits, class_texts, args.share)
    bridges = [n for n, v in enumerate(views) if v["kind"] == "bridge" and ready[n]]
    image = unit(image - args.centre * image[bridges].mean(0))

    names = candidate_names(rows)
    with torch.no_grad():
        text = unit(members[0].text(embeddings[[place[name] for name in names]]))
    figures = held_out_figures(image, text, views, rows, ready, names, args.hold_out)
    for kind, (top1, top5) in figures.items():
        print(f"{kind}: top-1 {top1:.3f} top-5 {top5:.3f} among {len(names)} names")
    if not args.hold_out:
        save(args.work / "teacher.pt", {"image": image.half(), "figures": figures,
                                        "text": members[0].text.state_dict()})
    print(f"{time.time() - start:.0f} s")


if __name__ == "__main__":
    main()
