"""2048: every row against plain Python, the law of new tiles, the score's arithmetic, and the baseline's choice."""

import math
from itertools import pairwise

import numpy as np
import pytest
from scipy import stats

import envs
from envs.game2048 import CELLS, board_of, exponents, is_stuck, moved, worth
from envs.reference.measure import returns

UP, RIGHT, DOWN, LEFT = range(4)
TURNS = {LEFT: 0, UP: 1, RIGHT: 2, DOWN: 3}  # quarter turns, counterclockwise, that make a move one to the left


def plain_row(row):
    """A row of exponents after a move to the left, and what it made: the rules as a loop over a list."""
    tiles, out, made = [k for k in row if k], [], 0
    while tiles:
        if len(tiles) > 1 and tiles[0] == tiles[1] < 15:
            out.append(tiles[0] + 1)
            made += 2 ** out[-1]
            del tiles[:2]
        else:
            out.append(tiles.pop(0))
    return out + [0] * (4 - len(out)), made


def plain_move(grid, action):
    """The same of a whole (4, 4) grid, in any direction."""
    rows = [plain_row(row) for row in np.rot90(grid, TURNS[action]).tolist()]
    return np.rot90(np.array([row for row, _ in rows]), -TURNS[action]), sum(made for _, made in rows)


def grid_of(board):
    return np.array(exponents(board)).reshape(4, 4)


def to_board(grid):
    return np.int64(board_of(np.asarray(grid).reshape(-1)))


def put(grid, n=1, **options):
    """n envs with this board."""
    env = envs.make_vec("game2048", n, seed=0, autoreset_mode="NextStep", **options)
    env.reset()
    env.state["board"] = to_board(grid)
    return env


def act(env, action):
    return env.step(np.full(env.num_envs, action))


def played(policy, n, steps):
    """Envs that have played by uniform actions (policy "random") or by the baseline."""
    env = envs.make_vec("game2048", n, seed=1, copy=True)
    env.action_space.seed(1)
    env.reset()
    for _ in range(steps):
        env.step(env.action_space.sample() if policy == "random" else env.scripted_actions())
    return env


@pytest.mark.parametrize("action", [UP, RIGHT, DOWN, LEFT])
def test_every_row_and_column_slides_and_merges_as_in_plain_python(action):
    rows = np.indices((16,) * 4).reshape(4, -1).T  # all 65536 of them, four to a board
    plain = [plain_row(row) for row in rows.tolist()]
    for first in range(0, len(rows), 4):
        board = to_board(np.rot90(rows[first : first + 4], -TURNS[action]))
        after, made = moved(board, action)
        expected, sums = zip(*plain[first : first + 4], strict=True)
        assert np.rot90(grid_of(after), TURNS[action]).tolist() == list(expected)
        assert made == sum(sums)


@pytest.mark.parametrize(
    ("row", "after", "reward"),
    [
        ([1, 1, 1, 1], [2, 2, 0, 0], 8),  # no tile merges twice
        ([1, 1, 2, 0], [2, 2, 0, 0], 4),  # nor a new one with an old one
        ([2, 1, 1, 0], [2, 2, 0, 0], 4),
        ([1, 1, 1, 0], [2, 1, 0, 0], 4),  # the pair at the wall first
        ([0, 1, 0, 1], [2, 0, 0, 0], 4),  # across a gap
        ([10, 10, 0, 3], [11, 3, 0, 0], 2048),
        ([15, 15, 0, 0], [15, 15, 0, 0], 0),  # 32768s do not merge
    ],
)
def test_rows_by_hand(row, after, reward):
    after_board, made = moved(to_board([[0] * 4, row, [0] * 4, [0] * 4]), LEFT)
    assert grid_of(after_board)[1].tolist() == after
    assert made == reward


def test_a_new_tile_is_uniform_on_the_free_cells_and_a_4_once_in_ten():
    n = 100_000
    env = put([[1, 0, 0, 0], [3, 4, 5, 6], [6, 5, 4, 3], [3, 4, 5, 6]], n)
    _, reward, terminated, _, _ = act(env, RIGHT)
    assert not reward.any()
    assert not terminated.any()
    boards = np.array([exponents(board) for board in env.state["board"]])
    assert (boards[:, 3:] == [1, 3, 4, 5, 6, 6, 5, 4, 3, 3, 4, 5, 6]).all()
    place, tile = np.nonzero(boards[:, :3])[1], boards[:, :3].sum(axis=1)
    counts = np.array([np.bincount(place[tile == k], minlength=3) for k in (1, 2)])
    assert counts.sum() == n
    expected = n * np.outer([0.9, 0.1], [1 / 3] * 3)
    assert stats.chisquare(counts.reshape(-1), expected.reshape(-1)).pvalue > 0.01


def test_an_episode_starts_with_two_new_tiles_anywhere():
    env = envs.make_vec("game2048", 50_000, seed=0)
    env.reset()
    boards = np.array([exponents(board) for board in env.state["board"]])
    assert ((boards > 0).sum(axis=1) == 2).all()
    assert boards.max() == 2
    cells = (boards > 0).sum(axis=0)  # each cell in one of eight; neighbours of each other only in that a cell is taken
    assert (np.abs(cells - 6250) < 5 * math.sqrt(50_000 * 1 / 8 * 7 / 8)).all()
    fours = (boards == 2).sum()
    assert abs(fours - 10_000) < 5 * math.sqrt(100_000 * 0.09)


@pytest.mark.parametrize(("fours", "tile"), [(0, 1), (100, 2)])
def test_the_share_of_fours_is_a_parameter(fours, tile):
    env = envs.make_vec("game2048", 100, seed=0, params={"fours": fours})
    env.reset()
    assert {k for board in env.state["board"] for k in exponents(board)} == {0, tile}


@pytest.mark.parametrize(
    ("params", "reward"), [({}, 12), ({"points": 0.5}, 6), ({"points": 0, "moves": 1}, 1), ({"moves": 3}, 15)]
)
def test_what_points_and_moves_are_worth_are_parameters(params, reward):
    env = put([[1, 1, 2, 2], [0] * 4, [0] * 4, [0] * 4], params=params)  # to the left: a 4 and an 8
    assert act(env, LEFT)[1].tolist() == [reward]


@pytest.mark.parametrize(("asked", "made"), [(UP, RIGHT), (RIGHT, RIGHT), (DOWN, DOWN), (LEFT, RIGHT)])
def test_in_place_of_a_move_that_changes_nothing_the_next_one_clockwise_is_made(asked, made):
    # It moves neither up nor to the left; after left comes up.
    grid = np.array([[3, 2, 1, 0], [0] * 4, [0] * 4, [0] * 4])
    env = put(grid)
    _, reward, terminated, _, _ = act(env, asked)
    after = grid_of(env.state["board"][0])
    assert (after != plain_move(grid, made)[0]).sum() == 1  # the new tile
    assert not reward[0]
    assert not terminated[0]


def test_a_board_without_a_move_that_was_put_there_by_hand_ends_the_episode():
    env = put(np.arange(1, 17).reshape(4, 4) % 3 + [[0], [3], [0], [3]] + 1)
    before = env.state["board"].copy()
    assert is_stuck(before[0])
    assert act(env, UP)[2][0]
    assert env.state["board"] == before


def test_the_game_is_over_when_no_move_changes_anything():
    full = np.array([[1, 2, 3, 4], [2, 3, 4, 5], [3, 4, 5, 6], [4, 5, 6, 7]])
    assert is_stuck(to_board(full))
    for row, column in ((0, 0), (2, 1), (3, 3)):
        for turns in range(4):
            gap, pair = np.rot90(full, turns).copy(), np.rot90(full, turns).copy()
            gap[row, column] = 0
            assert not is_stuck(to_board(gap))
            pair[row, column] = pair[row, column - 1] if column else pair[row, 1]
            assert not is_stuck(to_board(pair))
    assert is_stuck(to_board(np.full((4, 4), 15)))
    # The new tile, a 2 between tiles of 8 and more, ends it; with a neighbour to merge with it does not.
    last = [[0, 8, 7, 6], [3, 4, 5, 6], [6, 5, 4, 3], [3, 4, 5, 7]]
    assert act(put(last, params={"fours": 0}), LEFT)[2][0]
    last[0][3] = 1
    assert not act(put(last, params={"fours": 0}), LEFT)[2][0]


def test_play_is_that_of_plain_python_but_for_where_new_tiles_come():
    env = envs.make_vec("game2048", 16, seed=3, autoreset_mode="NextStep", copy=True)
    env.action_space.seed(3)
    env.reset()
    ends = 0
    for _ in range(400):
        grids, actions = [grid_of(board) for board in env.state["board"]], env.action_space.sample()
        fresh = env.state["ended"] == 1
        _, reward, terminated, _, _ = env.step(actions)
        for i in np.flatnonzero(~fresh):
            moves = [plain_move(grids[i], (actions[i] + turn) % 4) for turn in range(4)]
            expected, made = next(move for move in moves if (move[0] != grids[i]).any())
            after = grid_of(env.state["board"][i])
            assert reward[i] == made
            new = np.flatnonzero(after != expected)
            assert len(new) == 1
            assert expected.flat[new[0]] == 0
            assert after.flat[new[0]] in (1, 2)
            assert terminated[i] == all((plain_move(after, a)[0] == after).all() for a in range(4))
            ends += terminated[i]
    assert ends > 10


@pytest.mark.parametrize("policy", ["random", "scripted"])
def test_the_score_is_what_the_tiles_on_the_board_have_cost(policy):
    # A tile 2^k made of 2s has scored (k - 1) 2^k, and each 4 that came as such saves 4. Of m new tiles that add up to S,
    # S / 2 - m are fours; m is the number of moves, and 2.
    env = envs.make_vec("game2048", 32, seed=2, autoreset_mode="NextStep")
    env.action_space.seed(2)
    env.reset()
    for _ in range(150):
        env.step(env.action_space.sample() if policy == "random" else env.scripted_actions())
    for s, m in zip(env.state, env.state["elapsed"].tolist(), strict=True):
        tiles = [k for k in exponents(s["board"]) if k]
        fours = sum(2**k for k in tiles) // 2 - (m + 2)
        assert s["episode_return"] == sum((k - 1) * 2**k for k in tiles) - 4 * fours
    assert env.state["episode_return"].max() > 500


@pytest.mark.parametrize("turns", [1, 2, 3])
def test_a_turned_board_plays_the_same_game_turned(turns):
    for board in played("scripted", 50, 200).state["board"]:
        turned = to_board(np.rot90(grid_of(board), turns))
        assert worth(turned) == worth(board)
        assert is_stuck(turned) == is_stuck(board)
        for action in range(4):
            after, made = moved(board, action)
            turned_after, turned_made = moved(turned, (action - turns) % 4)
            assert (grid_of(turned_after) == np.rot90(grid_of(after), turns)).all()
            assert turned_made == made


def test_the_observation_shows_each_cells_tile():
    grid = np.arange(16).reshape(4, 4)
    np.testing.assert_array_equal(put(grid).observe()[0, :, :16], np.eye(16))
    np.testing.assert_array_equal(put(grid[::-1, ::-1]).observe()[0, :, :16], np.eye(16)[::-1])


def test_the_observation_shows_which_tiles_merge():
    obs = put([[2, 0, 2, 0], [0, 2, 15, 15], [1, 2, 3, 3], [2, 2, 2, 1]]).observe()[0]
    # Across gaps, but not across another tile; 32768s never do; of three in a row both pairs are shown.
    assert np.flatnonzero(obs[:, 16]).tolist() == [0, 10, 12, 13]
    assert np.flatnonzero(obs[:, 17]).tolist() == [5, 9]


def test_tiles_that_are_shown_to_merge_are_those_that_do():
    env = played("random", 200, 60)
    for board, obs in zip(env.state["board"], env.observe(), strict=True):
        for action, column in ((LEFT, 16), (UP, 17)):
            assert (moved(board, action)[1] > 0) == obs[:, column].any()


def test_the_largest_tile_cannot_be_exceeded_within_the_step_limit():
    sim = envs.get_sim("game2048")
    assert 4 * (sim.max_episode_steps + 2) < 2 * 2**15  # the sum of the tiles, and two tiles of 32768


def plain_worth(grid):
    total = 0
    for line in (*grid.tolist(), *grid.T.tolist()):
        steps = [b**3 - a**3 for a, b in pairwise(line)]
        total += 40 * line.count(0) + 20 * sum(a == b > 0 for a, b in pairwise(line))
        total -= min(sum(step for step in steps if step > 0), sum(-step for step in steps if step < 0))
    return total


def plain_choice(grid):
    """The baseline's action, as its docstring has it."""
    means = {}
    for action in range(4):
        after, _ = plain_move(grid, action)
        if (after == grid).all():
            continue
        futures = []
        for cell in np.flatnonzero(after.reshape(-1) == 0):
            new = after.copy()
            new.flat[cell] = 1
            nexts = [plain_move(new, a)[0] for a in range(4)]
            futures.append(max([plain_worth(g) for g in nexts if (g != new).any()], default=-(2**57)))
        means[action] = sum(futures) // len(futures)
    return max(means, key=means.get)


def test_the_baseline_chooses_as_it_says():
    for steps in (0, 60, 300):
        env = played("scripted", 12, steps)
        assert env.scripted_actions().tolist() == [plain_choice(grid_of(board)) for board in env.state["board"]]


def test_the_baseline_never_makes_a_move_that_changes_nothing():
    env = played("random", 64, 90)  # in all stages of bad games
    for _ in range(50):
        before = env.state["board"].copy()
        act = env.scripted_actions()
        assert all(moved(board, a)[0] != board for board, a in zip(before, act, strict=True))
        env.step(act)


def test_the_references_are_what_is_measured():
    references = envs.get_sim("game2048").references
    for policy, episodes in (("random", 2000), ("scripted", 64)):
        found = returns("game2048", policy, episodes, seed=7)
        error = math.hypot(found.std(ddof=1) / math.sqrt(len(found)), references[policy].error)
        assert abs(found.mean() - references[policy].mean) < 4 * error
    assert set(references) == {"random", "scripted"}  # nobody knows the best


def test_boards_can_be_written_and_read():
    rng = np.random.default_rng(0)
    for _ in range(100):
        tiles = rng.integers(16, size=CELLS).tolist()
        assert exponents(board_of(tiles)) == tiles
