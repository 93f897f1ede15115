"""The order in which rows are trained on: every row in every epoch, nothing but the arguments decides."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentflow.training.config import OptimiserSettings, SupervisedSettings
from agentflow.training.encoding import LENGTH_BUCKET, rows_per_step, total_steps, training_order

lengths_of_rows = st.lists(st.integers(1, 300), min_size=1, max_size=40)


def steps_per_epoch(n, per_step):
    return -(-n // per_step)


@given(lengths_of_rows, st.integers(1, 12), st.integers(1, 30), st.integers(0, 5))
def test_the_order_is_as_long_as_the_steps_need_and_depends_on_its_arguments_alone(lengths, per_step, steps, seed):
    order = training_order(lengths, per_step, steps, seed)
    assert len(order) == steps * per_step
    assert set(order) <= set(range(len(lengths)))
    assert order == training_order(list(lengths), per_step, steps, seed)


@given(lengths_of_rows, st.integers(1, 12), st.integers(1, 3), st.integers(0, 5))
def test_every_epoch_holds_every_row_and_only_its_last_step_repeats_some(lengths, per_step, epochs, seed):
    per_epoch = steps_per_epoch(len(lengths), per_step)
    order = training_order(lengths, per_step, epochs * per_epoch, seed)
    for epoch in range(epochs):
        rows = order[epoch * per_epoch * per_step : (epoch + 1) * per_epoch * per_step]
        assert set(rows) == set(range(len(lengths)))
        assert max(rows.count(row) for row in set(rows)) <= 1 + -(
            -(per_epoch * per_step - len(lengths)) // len(lengths)
        )


@given(lengths_of_rows, st.integers(1, 12), st.integers(0, 5))
def test_more_steps_only_append(lengths, per_step, seed):
    assert training_order(lengths, per_step, 9, seed)[: 4 * per_step] == training_order(lengths, per_step, 4, seed)


def test_a_step_holds_rows_of_similar_length():
    lengths = [10, 200, 11, 201, 12, 202, 13, 203]
    order = training_order(lengths, 4, 2, seed=0)
    steps = [{lengths[row] // LENGTH_BUCKET for row in order[i : i + 4]} for i in (0, 4)]
    assert sorted(max(buckets) - min(buckets) for buckets in steps) == [0, 0]


def test_epochs_and_seeds_are_shuffled_anew():
    lengths = [10] * 32
    order = training_order(lengths, 4, 16, seed=0)
    assert order[:32] != order[32:]
    assert order[:32] != list(range(32))
    assert training_order(lengths, 4, 16, seed=1) != order


@pytest.mark.parametrize(
    "rows, workers, changes, steps",
    [
        (64, 1, {}, 3),
        (65, 1, {}, 4),
        (64, 2, {}, 2),
        (64, 1, {"max_steps": 7}, 7),
        (64, 1, {"epochs": 0.5}, 1),
        (1, 1, {}, 1),
    ],
)
def test_the_number_of_steps(rows, workers, changes, steps):
    optimiser = OptimiserSettings(batch_size=16, accumulation=4)
    settings = SupervisedSettings(optimiser=optimiser, **changes)
    assert rows_per_step(settings, workers) == 64 * workers
    assert total_steps(rows, settings, workers) == steps
