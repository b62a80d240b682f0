"""Snake's rules: by hand, by invariant, and to the end."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import envs
from envs.snake import (
    CELLS,
    FREE,
    HAMILTONIAN_CYCLE,
    HEAD,
    NOWHERE,
    SIZE,
    ahead,
    body_cells,
    hamiltonian_policy,
    place_on_tour,
)

UP, RIGHT, DOWN, LEFT = range(4)
ENV = envs.make_vec("snake", 8)


def cell(row, column):
    return row * SIZE + column


def put(env, body, fruit):
    """Lay a snake with these (row, column) cells, tail first, and a fruit."""
    ahead = {(-1, 0): 1, (0, 1): 2, (1, 0): 3, (0, -1): 4}
    s = env.state.view(np.recarray)[0]
    s.trail[:] = FREE
    for (row, column), (next_row, next_column) in pairwise(body):
        s.trail[cell(row, column)] = ahead[next_row - row, next_column - column]
    s.trail[cell(*body[-1])] = HEAD
    s.tail, s.head, s.fruit, s.length = cell(*body[0]), cell(*body[-1]), cell(*fruit), len(body)


def move(body, fruit, action):
    """One step of a snake laid by hand; returns (its cells after, reward, terminated)."""
    env = envs.make_vec("snake", 1, seed=0, autoreset_mode="NextStep")
    env.reset()
    put(env, body, fruit)
    _, reward, terminated, _, _ = env.step(np.array([action]))
    cells = [divmod(c, SIZE) for c in body_cells(env.state.view(np.recarray)[0])]
    return cells, reward[0], terminated[0]


@pytest.mark.parametrize(("action", "head"), [(UP, (4, 5)), (RIGHT, (5, 6)), (DOWN, (6, 5)), (LEFT, (5, 4))])
def test_a_snake_of_one_cell_moves_anywhere(action, head):
    assert move([(5, 5)], (0, 0), action) == ([head], 0, False)


def test_the_body_follows_the_head():
    assert move([(5, 3), (5, 4), (5, 5)], (0, 0), UP) == ([(5, 4), (5, 5), (4, 5)], 0, False)


def test_a_fruit_is_worth_one_and_lengthens_the_snake_at_once():
    cells, reward, terminated = move([(5, 4), (5, 5)], (5, 6), RIGHT)
    assert cells == [(5, 4), (5, 5), (5, 6)]
    assert reward == 1
    assert not terminated


@pytest.mark.parametrize(
    ("head", "action"), [((0, 5), UP), ((5, SIZE - 1), RIGHT), ((SIZE - 1, 5), DOWN), ((5, 0), LEFT)]
)
def test_the_wall_ends_the_episode_and_leaves_the_snake_where_it_was(head, action):
    assert move([head], (6, 6), action) == ([head], 0, True)


def test_the_body_ends_the_episode():
    # The head at (5, 5) turns up into (4, 5), which is neither free nor the tail.
    body = [(3, 5), (4, 5), (4, 4), (5, 4), (5, 5)]
    assert move(body, (0, 0), UP) == (body, 0, True)


def test_the_cell_that_the_tail_leaves_may_be_entered():
    # A square of four: the head at (5, 5) goes up to (4, 5), where the tail was.
    assert move([(4, 5), (4, 4), (5, 4), (5, 5)], (0, 0), UP) == ([(4, 4), (5, 4), (5, 5), (4, 5)], 0, False)


def test_a_snake_of_two_may_turn_about():
    assert move([(5, 4), (5, 5)], (0, 0), LEFT) == ([(5, 5), (5, 4)], 0, False)


def test_a_snake_of_three_may_not_turn_about():
    assert move([(5, 3), (5, 4), (5, 5)], (0, 0), LEFT)[2]


def test_the_observation_shows_the_whole_state_around_the_head():
    env = envs.make_vec("snake", 1, seed=0)
    env.reset()
    put(env, [(5, 4), (5, 5), (4, 5), (4, 4), (3, 4)], fruit=(9, 2))
    # The head, at (3, 4), is shown at (6, 6): all is moved down by 3 and right by 2, and the fruit's row 12 is there.
    expected = np.zeros((13, 13, 7), np.int8)
    expected[12 + 3 - 13, :, 0] = 1  # the wall below row 11, which is also above row 0
    expected[:, 12 + 2 - 13, 0] = 1
    expected[8, 6, 1] = 1  # tail
    expected[12, 4, 2] = 1  # fruit
    expected[8, 6, 3 + RIGHT] = 1
    expected[8, 7, 3 + UP] = 1
    expected[7, 7, 3 + LEFT] = 1
    expected[7, 6, 3 + UP] = 1
    np.testing.assert_array_equal(env.observe()[0], expected)


def test_what_is_moved_out_of_the_observation_comes_in_on_the_other_side():
    env = envs.make_vec("snake", 1, seed=0)
    env.reset()
    put(env, [(11, 10), (11, 11)], fruit=(0, 4))
    obs = env.observe()[0]
    assert obs[6, 5, 1] == obs[6, 5, 3 + RIGHT] == 1
    assert np.argwhere(obs[..., 0].all(axis=1)).tolist() == np.argwhere(obs[..., 0].all(axis=0)).tolist() == [[7]]
    # The fruit's row is 11 rows above the head's, which is two below it, beyond the wall; its column is 7 to the left.
    assert np.argwhere(obs[..., 2]).tolist() == [[8, 12]]


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32), wander=st.floats(0, 0.3), steps=st.integers(1, 250))
def test_the_snake_is_a_chain_of_its_fruits_plus_one_and_never_lies_on_the_fruit(seed, wander, steps):
    rng = np.random.default_rng(seed)
    obs, _ = ENV.reset(seed=seed)
    for _ in range(steps):  # mostly along the tour, so that snakes grow; sometimes anywhere
        random = rng.integers(4, size=8)
        obs = ENV.step(np.where(rng.random(8) < wander, random, hamiltonian_policy(obs)))[0]
    for s in ENV.state.view(np.recarray):
        cells = body_cells(s)
        assert len(cells) == len(set(cells)) == s.length == s.episode_return + 1
        assert set(cells) == set(np.flatnonzero(s.trail != FREE))
        places = np.array([divmod(c, SIZE) for c in cells])
        assert (np.abs(np.diff(places, axis=0)).sum(axis=1) == 1).all()
        assert s.fruit < CELLS
        assert s.fruit not in cells


def test_going_round_the_tour_fills_the_board_and_ends_the_episode():
    env = envs.make_vec("snake", 2, seed=0, max_episode_steps=20_000, autoreset_mode="NextStep")
    obs, _ = env.reset()
    finished = np.zeros(2, bool)
    for _ in range(CELLS * CELLS):  # at most one round for each fruit
        obs, reward, terminated, _, info = env.step(hamiltonian_policy(obs))
        for i in terminated.nonzero()[0]:
            assert reward[i] == 1
            assert info["episode"]["r"][i] == CELLS - 1
            assert env.state["fruit"][i] == NOWHERE
            assert not obs[i, :, :, 2].any()
        finished |= terminated
        if finished.all():
            break
    assert finished.all()


def test_places_are_counted_along_the_tour():
    cell, visited = 0, []
    for _ in range(CELLS):
        visited.append(cell)
        cell += (-SIZE, 1, SIZE, -1)[HAMILTONIAN_CYCLE[cell]]
    assert cell == 0
    assert [place_on_tour(cell) for cell in visited] == list(range(CELLS))
    assert ahead(visited[140], visited[3]) == 7


def test_the_baseline_fills_the_board_in_time():
    env = envs.make_vec("snake", 100, seed=1, autoreset_mode="NextStep")
    env.reset()
    finished = np.zeros(100, bool)
    for _ in range(3999):
        _, _, terminated, _, info = env.step(env.scripted_actions())
        if terminated.any():
            assert (info["episode"]["r"][terminated] == CELLS - 1).all()
            finished |= terminated
    assert finished.all()


@pytest.mark.parametrize(
    ("body", "fruit", "action"),
    [
        # The tour's places: (0, 3) is 3, (0, 4) is 4, (1, 5) is 18, (1, 3) is 20, (1, 2) is 21, (2, 3) is 25.
        ([(0, 3)], (2, 3), DOWN),  # from 3 to 20, since the fruit is beyond
        ([(0, 3)], (1, 5), RIGHT),  # not past the fruit
        ([(1, 2), (0, 2), (0, 3)], (2, 3), DOWN),  # up to the cell before the tail
        ([(1, 3), (1, 2), (0, 2), (0, 3)], (2, 3), RIGHT),  # not onto the tail, although it is about to leave
    ],
)
def test_the_baseline_takes_short_cuts_up_to_fruit_and_tail(body, fruit, action):
    env = envs.make_vec("snake", 1, seed=0)
    env.reset()
    put(env, body, fruit)
    assert env.scripted_actions().tolist() == [action]


def test_start_and_fruit_are_uniform():
    env = envs.make_vec("snake", 100_000, seed=0)
    env.reset()
    heads = np.bincount(env.state["head"], minlength=CELLS)
    fruits = np.bincount(env.state["fruit"], minlength=CELLS)
    # A count of 100 000 draws with probability 1/144 has mean 694 and standard deviation 26; five of those either way.
    assert (np.abs(heads - 694) < 132).all()
    assert (np.abs(fruits - 694) < 132).all()
    assert (env.state["head"] != env.state["fruit"]).all()


class PlainSnake:
    """The rules once more, as a list of cells, with nothing taken from the sim: body, tail first, and fruit."""

    MOVES = ((-1, 0), (0, 1), (1, 0), (0, -1))

    def __init__(self, obs):
        self.body, self.fruit = [head_of(obs)], place(obs, 2)
        assert place(obs, 1) == self.body[0] != self.fruit

    def step(self, action, fruit):
        """(reward, terminated); `fruit` is where the next one comes, if it does."""
        row, column = (x + dx for x, dx in zip(self.body[-1], self.MOVES[action], strict=True))
        if not (0 <= row < 12 and 0 <= column < 12) or (row, column) in self.body[1:]:
            return 0, True
        self.body.append((row, column))
        if (row, column) != self.fruit:
            del self.body[0]
            return 0, False
        assert fruit not in self.body
        self.fruit = fruit
        return 1, len(self.body) == 144

    def observation(self):
        obs = np.zeros((13, 13, 7), np.int8)
        obs[12, :, 0] = obs[:, 12, 0] = 1
        obs[*self.body[0], 1] = 1
        if self.fruit:
            obs[*self.fruit, 2] = 1
        for (row, column), (next_row, next_column) in pairwise(self.body):
            obs[row, column, 3 + self.MOVES.index((next_row - row, next_column - column))] = 1
        return np.roll(obs, [6 - x for x in self.body[-1]], axis=(0, 1))


def head_of(obs):
    """(row, column) of the head on the board: the wall is at 12, the head in the middle."""
    return tuple((18 - int(np.flatnonzero(obs[..., 0].all(axis=axis))[0])) % 13 for axis in (1, 0))


def place(obs, plane):
    """(row, column) on the board of the 1 in a plane, None if there is none."""
    board = np.roll(obs[..., plane], [x - 6 for x in head_of(obs)], axis=(0, 1))
    return next((tuple(cell.tolist()) for cell in np.argwhere(board)), None)


@pytest.mark.parametrize(("wander", "steps"), [(1.0, 800), (0.1, 800), (0.01, 1500), (0.0, 15_000)])
def test_the_game_is_the_one_that_plain_python_plays(wander, steps):
    rng = np.random.default_rng(0)
    n = 2 if wander == 0 else 8
    env = envs.make_vec("snake", n, seed=5, max_episode_steps=100_000, copy=True)
    obs, _ = env.reset()
    games = [PlainSnake(o) for o in obs]
    longest = 0
    for _ in range(steps):
        actions = np.where(rng.random(n) < wander, rng.integers(4, size=n), hamiltonian_policy(obs))
        obs, reward, terminated, _, info = env.step(actions)
        for i, game in enumerate(games):
            shown = info["final_obs"][i] if terminated[i] else obs[i]
            assert game.step(actions[i], fruit=place(shown, 2)) == (reward[i], terminated[i])
            assert (game.observation() == shown).all()
            longest = max(longest, len(game.body))
            if terminated[i]:
                games[i] = PlainSnake(obs[i])
    assert longest == 144 if wander == 0 else longest > 2


@pytest.mark.parametrize(
    "damage",
    [
        {"head": 200},
        {"tail": 255},
        {"tail": 0},
        {"fruit": cell(5, 4)},  # on the snake
        {"fruit": 145},
        {"length": 0},
        {"length": 200},
        {"length": 2},
        {"trail": FREE},
        {"trail": HEAD},
        {"trail": 1},  # a trail that runs into the wall
    ],
)
@pytest.mark.parametrize("backend", ["python", "serial", "parallel"])
def test_a_damaged_snapshot_is_refused_and_changes_nothing(damage, backend):
    env = envs.make_vec("snake", 2, seed=0, backend=backend)
    env.reset()
    put(env, [(5, 3), (5, 4), (5, 5)], fruit=(9, 2))
    snapshot, before = env.get_state(), env.state.tobytes()
    assert env.observe()[0].any()
    for name, value in damage.items():
        snapshot["states"].view(env.state.dtype)[name][0] = value
    with pytest.raises(ValueError, match="the state of env 0 is not a valid state of Snake"):
        env.set_state(snapshot)
    assert env.state.tobytes() == before
    env.state[0] = snapshot["states"].view(env.state.dtype)[0]  # or by hand
    with pytest.raises(ValueError, match="env 0"):
        env.observe()
