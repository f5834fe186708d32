"""The rule of recommendation, on answers that are simulated with a known truth."""

from dataclasses import replace
from itertools import permutations

import numpy as np
import pytest

from cliphelpers.answers import Way, recommend
from cliphelpers.evaluation import interval

RUNS = 200


def ways(rng, accuracies, costs, groups, classes=20, pictures=4, shots=None):
    """Ways with these expected accuracies on the same pictures; groups differ in difficulty."""
    y = np.repeat(np.arange(classes), groups * pictures)
    group = np.repeat(np.arange(classes * groups), pictures)
    hard = np.repeat(rng.normal(0, 0.5, classes * groups), pictures)
    made = []
    for number, (accuracy, cost) in enumerate([*zip(accuracies, costs, strict=True)]):
        own = np.repeat(rng.normal(0, 0.3, classes * groups), pictures)
        if accuracy is None:  # guesses
            told = rng.integers(0, classes, len(y))
        else:
            chance = 1 / (1 + np.exp(-(np.log(accuracy / (1 - accuracy)) + hard + own)))
            told = np.where(rng.random(len(y)) < chance, y, (y + 1) % classes)
        where = ("by_group", f"encoder {number}", "penultimate", "ridge", None, f"timm:{number}")
        said = np.arange(len(y)), told[None], y, group, 100
        made.append(Way(*where, "04_linear_probe_imagenet", *said, cost=cost))
    return made


def share(accuracies, costs, groups, **options):
    """How often each way is recommended, and None: dict of encoder's number to share."""
    taken = []
    for seed in range(RUNS):
        some = ways(np.random.default_rng(seed), accuracies, costs, groups, **options)
        found = recommend(some).taken
        taken.append(-1 if found is None else some.index(found))
    return {number: taken.count(number) / RUNS for number in set(taken)}


@pytest.mark.parametrize("cheap", [0, 1])
def test_of_two_equals_the_cheaper_is_recommended(cheap):
    costs = [5.0, 5.0]
    costs[cheap] = 1.0
    assert share([0.95, 0.95], costs, groups=60)[cheap] >= 0.9


@pytest.mark.parametrize(("accuracies", "better"), [([0.8, 0.9], 1), ([0.7, 0.8, 0.95], 2)])
def test_of_unequals_the_better_is_recommended_though_it_costs_more(accuracies, better):
    assert share(accuracies, [1.0, 2.0, 3.0][: len(accuracies)], groups=60)[better] >= 0.95


@pytest.mark.parametrize(
    ("accuracy", "groups", "count"), [(0.8, 2, 8), (None, 2, 2), (None, 60, 3)]
)
def test_noise_decides_nothing(accuracy, groups, count):
    """Too few pictures for many equal ways, and ways that guess one of 20 classes."""
    assert share([accuracy] * count, range(count), groups=groups)[-1] >= 0.95


def test_a_way_that_is_worse_by_more_than_the_margin_is_hardly_ever_recommended():
    assert share([0.87, 0.9], [1.0, 2.0], groups=10).get(0, 0) <= 0.05


def copied(way, times):
    """A way whose groups were seen so many times."""
    new = (way.groups + number * (way.groups.max() + 1) for number in range(times))
    more = {name: np.tile(getattr(way, name), times) for name in ("predicted", "y", "rows")}
    return replace(way, groups=np.concatenate([*new]), **more)


@pytest.mark.parametrize("groups", [2, 3, 10])
def test_as_many_groups_as_are_wanted_narrow_the_differences_to_the_margin(groups):
    """Few groups have wide quantiles, so that the square of the widths' ratio is far too many."""
    some = ways(np.random.default_rng(1), [0.8, 0.8], [1.0, 2.0], groups=groups, classes=2)
    found = recommend(some)
    assert found.taken is None and set(found.open) == set(some) and found.groups == 2 * groups
    times, halves = found.wanted(0.02) // found.groups, {}
    for number in (1, int(times / 1.3), times):
        best, other = copied(some[0], number), copied(some[1], number)
        _, low, high, _ = interval(best.right - other.right, best.y, best.groups, level=0.975)
        halves[number] = (high - low) / 2
    assert halves.pop(times) <= 0.02 < min(halves.values())
    assert times < 0.9 * (halves[1] / 0.02) ** 2 or groups == 10


def test_seeds_that_differ_are_not_narrowed_by_more_groups():
    one, other = ways(np.random.default_rng(1), [0.8, 0.8], [1.0, 2.0], groups=3)
    other = replace(other, predicted=np.vstack([other.predicted, one.y, 0 * one.y]))
    found = recommend([one, other])
    assert found.taken is None and found.wanted(0.02) is None


def test_of_equals_the_cheapest_is_the_best_seen_whichever_was_asked_first():
    some = ways(np.random.default_rng(1), [0.8, 0.8, 0.8, 0.5], [3.0, 1.0, 2.0, 0.5], groups=3)
    some = [replace(way, predicted=some[0].predicted) for way in some[:3]] + some[3:]
    for order in permutations(some):
        found = recommend(list(order))
        assert found.best is some[1] and found.ties == 2


def test_where_all_name_the_largest_class_no_way_is_shown_to_be_better_than_that():
    some = ways(np.random.default_rng(1), [0.8, 0.8], [1.0, 2.0], groups=60, classes=2)
    lopsided = np.repeat([0, 1], [108, 12])[some[0].groups]
    guesses = [replace(way, y=lopsided, predicted=0 * way.predicted) for way in some]
    found = recommend(guesses)
    assert found.taken is None and found.share == np.mean(lopsided == 0)
    assert found.ties == 1 and found.wanted() == found.groups
    assert recommend(some).share is None


def few_shot_ways(seed, accuracies, k=4):
    """Ways of one encoder, the first with all labels, the others with a few; their costs equal."""
    made = ways(np.random.default_rng(seed), accuracies, [1.0] * len(accuracies), groups=30)
    for number, way in enumerate(made):
        way.encoder = "encoder"
        if number:
            way.method, way.shots, way.labels = f"head {number}", k, 20 * k
    return made


def test_what_learnt_from_a_few_is_a_rival_too():
    """As on pictures so few that a head from texts is better than one from all labels."""
    for seed in range(20):
        some = few_shot_ways(seed, [0.8, 0.9, 0.7])
        found = recommend(some)
        assert found.taken is some[1] and found.few is some[1]


def test_a_way_of_all_labels_goes_before_one_of_a_few_that_is_as_good():
    full, enough = 0, 0
    for seed in range(50):
        some = few_shot_ways(seed, [0.96, 0.95])
        found = recommend(some)
        full, enough = full + (found.taken is some[0]), enough + (found.few is some[1])
    assert full == 50 and enough > 5


def test_fewer_labels_are_hardly_ever_enough_by_chance_though_many_were_tried():
    """None of 20 ways is as good: they are worse by a little more than the margin."""
    count = 0
    for seed in range(RUNS):
        some = few_shot_ways(seed, [0.9] + 20 * [0.875])
        count += recommend(some, margin=0.02).few is not None
    assert count / RUNS <= 0.05
