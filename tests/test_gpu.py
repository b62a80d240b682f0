"""On a real GPU: `pytest -m gpu` (skipped where there is none). What the simulator and the recorded graphs cannot show."""

import gc
import hashlib
import os

import numpy as np
import pytest

import envs

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not envs.has_gpu(), reason="there is no GPU")]
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when CUDA starts; for the deterministic mode

import torch  # noqa: E402

from envs.engine.check import compare  # noqa: E402
from rlsys import capture  # noqa: E402
from rlsys.agents import build  # noqa: E402
from rlsys.config import DQNConfig, PPOConfig, PQNConfig  # noqa: E402
from rlsys.torchenv import TorchEnv  # noqa: E402
from tests.envs.test_cuda import ULPS  # noqa: E402

DEVICE = "cuda"
N = 1000  # not a multiple of a block
AGENTS = {
    "ppo": ("cartpole", PPOConfig(batch_size=8000, learning_rate_schedule="linear", clip_range_schedule="linear")),
    "ppo, Box": ("pendulum", PPOConfig(batch_size=8000, normalize_observations=True, normalize_rewards=True)),
    "ppo, pictures": ("snake", PPOConfig(batch_size=8000)),
    "pqn": ("cartpole", PQNConfig(batch_size=8000)),
    "dqn": ("cartpole", DQNConfig(learning_starts=2 * N, train_freq=N, target_update_interval=2 * N, n_step=3)),
    "dqn, priorities": ("cartpole", DQNConfig(learning_starts=2 * N, train_freq=N, prioritized_replay=True)),
}


@pytest.fixture
def deterministic():
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


def made(case, n=N, **how):
    sim, config = AGENTS[case]
    return build(TorchEnv(envs.make_vec(sim, n, seed=1, device="cuda"), DEVICE), config, 2, **how)


def tensors(agent):
    return [p.detach().clone() for p in agent.policy.state_dict().values()]


def equal(one, two):
    return all(a.equal(b) for a, b in zip(one, two, strict=True))


@pytest.mark.parametrize("name", envs.sims())
def test_a_million_transitions_are_those_of_the_cpu_and_ten_million_of_integer_sims(name):
    steps = 100 if envs.get_sim(name).is_integer else 10
    how = {"num_envs": 100_003, "steps": steps, "max_episode_steps": 50}
    report = compare(name, ("parallel", "cuda"), ulps=ULPS.get(name, 2.0), **how)
    assert report.passed, report
    assert report.transitions >= (10**7 if envs.get_sim(name).is_integer else 10**6)


def test_an_env_does_the_same_whatever_the_number_of_envs():
    few, many = (envs.make_vec("snake", n, seed=3, device="cuda") for n in (1000, 2**20))
    few.reset(), many.reset()
    for t in range(50):
        actions = torch.randint(4, (2**20,), device=DEVICE, generator=torch.Generator(DEVICE).manual_seed(t))
        few.step(actions[:1000].contiguous()), many.step(actions)
    many.check()
    assert few.state.tobytes() == many.state[:1000].tobytes()


def test_tensors_and_the_envs_arrays_are_the_same_memory():
    env = TorchEnv(envs.make_vec("cartpole", N, seed=1, device="cuda"), DEVICE)
    steps = env.empty_steps()
    env.step(torch.ones(N, dtype=torch.int64, device=DEVICE), env.bind(steps))
    assert steps.reward.eq(1).all()
    array = env.env.arrays().reward
    torch.as_tensor(array, device=DEVICE).fill_(7.0)
    assert (array.copy_to_host() == 7.0).all()


def test_work_on_a_stream_is_done_in_its_order_a_thousand_times():
    hashes = set()
    for _ in range(1000):
        env = TorchEnv(envs.make_vec("snake", 256, seed=1, device="cuda"), DEVICE)
        slot = env.bind(env.empty_steps())
        with torch.cuda.stream(torch.cuda.Stream()):
            for _ in range(5):
                action = env.obs.flatten(1).sum(1).long() % 4  # reads what the step before has written
                env.step(action, slot)
            torch.cuda.current_stream().synchronize()
        hashes.add(hashlib.sha256(slot.step.obs.cpu().numpy().tobytes()).hexdigest())
    assert len(hashes) == 1


def test_two_streams_do_not_disturb_each_other():
    def play(stream):
        env = TorchEnv(envs.make_vec("snake", N, seed=1, device="cuda"), DEVICE)
        slot = env.bind(env.empty_steps())
        for t in range(50):
            with torch.cuda.stream(stream):
                env.step(torch.full((N,), t % 4, device=DEVICE), slot)
            yield env

    first, second = play(torch.cuda.Stream()), play(torch.cuda.Stream())
    torch.cuda.synchronize()
    a, b = list(zip(first, second, strict=True))[-1]  # in turns
    alone = list(play(torch.cuda.current_stream()))[-1]
    torch.cuda.synchronize()
    assert a.env.state.tobytes() == b.env.state.tobytes() == alone.env.state.tobytes()


@pytest.mark.parametrize("case", AGENTS)
def test_a_graph_learns_the_same_as_without_to_the_bit(case, deterministic, monkeypatch):
    graph = made(case, engine="graph")
    monkeypatch.setattr(capture, "CudaGraph", lambda: None)
    eager = made(case, engine="graph")
    for k in range(6):
        a, b = graph.iterate(k / 6), eager.iterate(k / 6)
        assert {name: float(x) for name, x in a.items()} == {name: float(x) for name, x in b.items()}
    assert equal(tensors(graph), tensors(eager))
    assert graph.play.graph is not None, "the rollout has not been captured"


@pytest.mark.parametrize("case", AGENTS)
def test_a_run_resumed_is_the_uninterrupted_one(case, deterministic):
    whole = made(case)
    for k in range(4):
        whole.iterate(k / 8)
    resumed = made(case)
    resumed.load_state(whole.state())
    for k in range(4, 8):
        whole.iterate(k / 8), resumed.iterate(k / 8)
    assert equal(tensors(whole), tensors(resumed))
    assert whole.env.env.state.tobytes() == resumed.env.env.state.tobytes()


@pytest.mark.parametrize("case", AGENTS)
def test_nothing_in_an_iteration_waits_for_the_device(case):
    agent = made(case)
    for _ in range(5):
        agent.iterate(0.1)
    torch.cuda.set_sync_debug_mode("error")
    try:
        agent.iterate(0.5)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_a_thousand_iterations_leave_nothing_behind():
    agent = made("ppo", n=64 * 125)
    used = []
    for k in range(1000):
        agent.iterate(0.0)
        if k in (20, 999):
            gc.collect()
            torch.cuda.synchronize()
            used.append((torch.cuda.memory_allocated(), torch.cuda.mem_get_info()[0]))
    assert used[0] == used[1]


def test_more_envs_than_memory_is_told_with_bytes_and_a_number_that_fits():
    with pytest.raises(MemoryError, match=r"take [\d,]+ bytes on the GPU, which has [\d,]+ to spare. Use num_envs=\d+"):
        envs.make_vec("snake", 2**31 - 1, device="cuda")


def test_ppo_solves_cartpole_and_bfloat16_and_tf32_do_too():
    for precision in ("float32", "tf32", "bfloat16"):
        config = PPOConfig(batch_size=8192, n_epochs=4, learning_rate=5e-3, gamma=0.98, gae_lambda=0.9)
        env = TorchEnv(envs.make_vec("cartpole", 1024, seed=1, device="cuda"), DEVICE)
        agent = build(env, config, 2, matmul_precision=precision)
        best = 0.0
        for _ in range(100):
            agent.iterate(0.0)
            best = max(best, env.metrics().get("rollout/ep_rew_mean", 0.0))
        assert best > 475, precision
        assert np.isfinite(best)
