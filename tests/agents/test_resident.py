"""Agents whose envs are on the GPU: the same as with envs on the CPU, and the same captured as graphs.

Here the GPU is numba-cuda's simulator, and the graphs are recorded (tests/graphs.py); `pytest -m gpu` has the real ones.
"""

import importlib
from dataclasses import replace

import pytest

import envs
from envs.engine import cuda
from rlsys import capture
from rlsys.agents import build, dqn
from rlsys.agents.dqn import DQN
from rlsys.agents.ppo import PPO
from rlsys.agents.pqn import PQN
from rlsys.config import DQNConfig, PPOConfig, PQNConfig
from rlsys.torchenv import TorchEnv
from tests.agents.test_determinism import assert_same
from tests.graphs import RecordedGraph

N = 6
PPO_CONFIG = PPOConfig(
    n_steps=5, batch_size=15, n_epochs=2, hidden=[8], clip_range_schedule="linear", learning_rate=1e-2
)
PQN_CONFIG = PQNConfig(n_steps=5, batch_size=15, n_epochs=2, hidden=[8], learning_rate_schedule="linear")
DQN_CONFIG = DQNConfig(
    learning_starts=2 * N, train_freq=N, target_update_interval=2 * N, batch_size=8, buffer_size=7 * N, hidden=[8]
)
CASES = {
    "ppo": ("cartpole", PPO, PPO_CONFIG),
    "ppo, normalised": ("pendulum", PPO, replace(PPO_CONFIG, normalize_observations=True, normalize_rewards=True)),
    "ppo, pictures": ("snake", PPO, PPO_CONFIG),
    "pqn": ("cartpole", PQN, PQN_CONFIG),
    "dqn": ("cartpole", DQN, DQN_CONFIG),
    "dqn, three steps": ("snake", DQN, replace(DQN_CONFIG, n_step=3, normalize_observations=True, tau=0.5)),
    "dqn, priorities": ("cartpole", DQN, replace(DQN_CONFIG, prioritized_replay=True, learning_rate_schedule="linear")),
    "pqn, pictures": ("maze", PQN, PQN_CONFIG),
}


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(dqn, "ITERATION", 5 * N)  # of DQN: as long as the others'
    monkeypatch.setattr(cuda, "THREADS", 8)  # in the simulator each is one of Python's


@pytest.fixture
def recorded(monkeypatch):
    monkeypatch.setattr(capture, "CudaGraph", RecordedGraph)
    radam = importlib.import_module("torch.optim.radam")
    monkeypatch.setattr(radam, "_get_capturable_supported_devices", lambda *_, **__: ["cpu"])


def made(case, engine="torch", **where):
    sim, agent, config = CASES[case]
    env = TorchEnv(envs.make_vec(sim, N, seed=1, max_episode_steps=4, **where))
    return agent(env, config, seed=2, engine=engine)


def run(agent, iterations=6):
    """Metrics of each iteration; the agent is left as it is then."""
    return [
        {name: float(value) for name, value in {**agent.iterate(k / iterations), **agent.env.metrics()}.items()}
        for k in range(iterations)
    ]


@pytest.mark.parametrize("case", CASES)
def test_envs_on_the_gpu_teach_the_same_as_envs_on_the_cpu(case):
    there, here = made(case, device="cuda"), made(case, backend="python")  # the simulator computes as Python does
    assert there.env.is_resident
    assert run(there, 3) == run(here, 3)
    assert_same(there.state(), here.state())


@pytest.mark.parametrize("case", CASES)
def test_a_graph_learns_the_same_as_without_to_the_bit(case, recorded, monkeypatch):
    graph = made(case, "graph", device="cuda")
    monkeypatch.setattr(capture, "CudaGraph", lambda: None)
    eager = made(case, "graph", device="cuda")
    assert run(graph) == run(eager)
    assert_same(graph.state(), eager.state())
    calls = {"ppo": (6, 6), "pqn": (6, 6), "dqn": (30, 28)}[case.partition(",")[0]]  # DQN plays and learns step by step
    assert [part.graph.replays for part in (graph.play, graph.fit)] == [n - capture.WARM_UP for n in calls]
    assert graph.updates == eager.updates > 0
    assert graph.steps == eager.steps == 6 * 5 * N


@pytest.mark.parametrize("case", ["ppo, normalised", "pqn", "dqn, three steps", "dqn, priorities"])
def test_a_run_resumed_with_graphs_is_the_uninterrupted_one(case, recorded):
    whole = made(case, "graph", device="cuda")
    run(whole, 3)
    middle = whole.state()
    resumed = made(case, "graph", device="cuda")
    resumed.load_state(middle)
    assert run(whole, 5) == run(resumed, 5)
    assert_same(whole.state(), resumed.state())


def test_envs_on_the_cpu_are_stepped_without_a_graph_and_the_rest_is_one(recorded):
    with pytest.warns(UserWarning, match="act_and_step runs without a CUDA graph: the envs are on the CPU"):
        mixed = made("ppo", "graph", backend="python")
    run(mixed, 4)
    assert mixed.play.graph is None
    assert mixed.fit.graph.replays == 4 - capture.WARM_UP


def test_a_limit_on_the_divergence_is_looked_at_after_each_step_without_a_graph(recorded):
    env = TorchEnv(envs.make_vec("cartpole", N, seed=1, device="cuda"))
    with pytest.warns(UserWarning, match="torch_steps runs without a CUDA graph: target_kl"):
        agent = PPO(env, replace(PPO_CONFIG, target_kl=1e-9), seed=2, engine="graph")
    for _ in range(4):
        agent.iterate(0.0)
    assert 0 < agent.updates < 4 * 4


def test_graphs_are_for_gpus():
    env = TorchEnv(envs.make_vec("cartpole", N, seed=1))
    with pytest.raises(ValueError, match="engine=graph is for device=cuda, and this is cpu"):
        build(env, PPO_CONFIG, 0, engine="graph")


def test_an_action_that_is_none_is_told_where_numbers_are_read():
    agent = made("ppo", device="cuda")
    agent.iterate(0.0)
    agent.action[0, 3] = 7
    agent.env.step(agent.action[0], agent.slots[0])
    with pytest.raises(ValueError, match=r"an action of env 3 was not in Discrete\(2\); the envs stopped there"):
        agent.env.metrics()
