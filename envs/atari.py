"""Atari games (Bellemare et al. 2013) as agents learn them: the emulator's own C++ threads, and what the papers do to the game.

Always: up to `noop_max` idle frames before a game, `frame_skip` frames for an action, the pixelwise maximum of the last two
of them (sprites flicker), grey and scaled down. `sticky_actions` repeats the last action instead with that probability in
each frame (Machado et al. 2018). FIRE is pressed before the game where it has that action.

In training only: a lost life ends the episode, but not the game, which goes on; and rewards are clipped to [-1, 1]
(Mnih et al. 2015). Episode statistics are those of whole games and of raw scores, in training too.

Steps count actions: a game is cut after `max_frames` frames, which are frame_skip a step.
"""

import importlib
from typing import Any

import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv
from numpy.typing import NDArray

from envs.engine.vector import Transition
from envs.gym import GymVectorEnv, find_spec

HEIGHT, WIDTH = 210, 160  # pixels of the screen, in pictures


class AtariEnv(GymVectorEnv):
    """N copies of one game; observations (size, size, 1) or, in colour, (size, size, 3), uint8."""

    def __init__(
        self, env: VectorEnv, *, life_loss: bool, clip_rewards: bool, screens: VectorEnv | None, **options: Any
    ):
        """screens: the same envs in full colour and size, to look at; they get the same seeds and actions."""
        super().__init__(env, **options)
        self.life_loss, self.clip_rewards, self.screens = life_loss, clip_rewards, screens
        self._lives = np.zeros(self.num_envs, np.int32)

    def advance(self, actions: NDArray, out: Transition) -> NDArray | None:
        """Step every env; as in `GymVectorEnv`, but that the mask also has those whose life, not game, has ended."""
        ended = super().advance(actions, out)
        if self.screens:
            self._pictures = self.screens.step(actions)[0]
        if self.clip_rewards:
            np.clip(out.reward, -1.0, 1.0, out=out.reward)
        lives, before = self.info["lives"], self._lives
        self._lives = lives.copy()
        lost = lives < before
        if ended is not None:
            lost &= ~ended
        if not self.life_loss or not lost.any():
            return ended
        out.terminated[lost] = True
        out.final_obs[lost] = out.obs[lost]
        return lost if ended is None else ended | lost

    def _begin(self, seed: int, out: NDArray) -> None:
        super()._begin(seed, out)
        self._lives = self.info["lives"].copy()
        if self.screens:
            self._pictures = self.screens.reset(seed=seed)[0]

    def frame(self, i: int) -> NDArray:
        """The screen of env i, (210, 160, 3) uint8, as the agent's eye has it: the maximum of two frames."""
        if not self.screens:
            raise ValueError("the environment has no pictures: it was made without render_mode='rgb_array'.")
        return self._pictures[i].reshape(HEIGHT, WIDTH, 3)

    def close(self) -> None:
        super().close()
        for env in (self.env, self.screens):
            vars(env or self).pop("ale", None)  # ends its threads; of what is alive at exit ale-py complains


def make(
    env_id: str,
    num_envs: int,
    *,
    frame_skip: int = 4,
    noop_max: int = 30,
    sticky_actions: float = 0.25,
    full_action_space: bool = False,
    grayscale: bool = True,
    screen_size: int = 84,
    fire_on_reset: bool = True,
    life_loss: bool = True,
    clip_rewards: bool = True,
    max_frames: int = 108_000,
    seed: int = 0,
    split: str = "train",
    first_env: int = 0,
    all_envs: int | None = None,
    autoreset_mode: str = "SameStep",
    render_mode: str | None = None,
) -> AtariEnv:
    """`num_envs` copies of the game `env_id`, such as "ALE/Breakout-v5". The keys are those of `conf/env/atari.yaml`.

    life_loss, clip_rewards: only for the split "train".
    Raises ValueError for what is no Atari game, or if ale-py is not installed.
    """
    game = check_game(env_id)
    if AutoresetMode(autoreset_mode) is AutoresetMode.DISABLED:
        raise ValueError("autoreset_mode='Disabled': Atari's envs reset themselves. Use 'SameStep' or 'NextStep'.")
    vector_env = importlib.import_module("ale_py.vector_env").AtariVectorEnv

    def emulators(height: int, width: int, gray: bool) -> VectorEnv:
        env = vector_env(
            game,
            num_envs,
            frameskip=frame_skip,
            noop_max=noop_max and noop_max + 1,  # ale-py draws from 0 to one less
            repeat_action_probability=sticky_actions,
            full_action_space=full_action_space,
            grayscale=gray,
            img_height=height,
            img_width=width,
            use_fire_reset=fire_on_reset,
            max_num_frames_per_episode=max_frames,
            autoreset_mode=AutoresetMode(autoreset_mode),
            stack_num=1,  # FrameStack's job
            reward_clipping=False,  # ours, as are lives: whole games are counted
        )
        env.single_observation_space = spaces.Box(0, 255, (height, width, 1 if gray else 3), np.uint8)
        env.metadata = {**env.metadata, "render_fps": 60 / frame_skip}  # a new one: ale-py's is the class's
        return env

    training = split == "train"
    return AtariEnv(
        emulators(screen_size, screen_size, grayscale),
        screens=emulators(HEIGHT, WIDTH, False) if render_mode else None,
        life_loss=life_loss and training,
        clip_rewards=clip_rewards and training,
        seed=seed,
        split=split,
        first_env=first_env,
        all_envs=all_envs,
    )


def check_game(env_id: str) -> str:
    """The name that ale-py gives the game `env_id`; ValueError if it is none, or ale-py is not installed."""
    if not env_id.startswith("ALE/"):
        raise ValueError(f"env.id={env_id!r} is no Atari game. They are called ALE/Breakout-v5, ALE/Pong-v5, ...")
    return find_spec(env_id).kwargs["game"]
