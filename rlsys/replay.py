"""Watch a policy: as GIF and MP4 files, or live in a terminal. Nothing here needs a display."""

import sys
import time
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import imageio_ffmpeg
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from envs.engine.canvas import ansi
from rlsys.evaluate import policy_device
from rlsys.policy import Policy
from rlsys.torchenv import TorchEnv, make_env

GIF_FRAME_RATE = 25  # viewers slow down GIFs that ask for more
MAX_GIF_FRAMES = 500
BAR = 28  # pixels, of the caption
LEAST_WIDTH = 320  # pixels, of a picture: MinAtar's have ten, and Atari's 160


class Frame(NamedTuple):
    """One moment of an episode, before the action is taken (or after the last)."""

    pixels: NDArray  # [height, width, 3] uint8
    episode: int
    step: int
    total_reward: float


def play(
    policy: Policy,
    env_config: Any,
    *,
    episodes: int = 1,
    deterministic: bool | None = None,
    seed: int = 0,
    max_steps: int | None = None,
) -> Iterator[Frame]:
    """The frames of `episodes` episodes on the test split. seed: another one gives other episodes. deterministic: see
    `Policy.act`.

    Raises ValueError if the env cannot draw itself.
    """
    # NextStep autoreset leaves the last state of an episode to be looked at.
    how: dict[str, Any] = {
        "autoreset_mode": "NextStep",
        "render_mode": "rgb_array",
        "device": str(policy_device(policy)),
    }
    first = 0
    while first < episodes:  # once, but for an env whose episode is cut: it would begin with the same again
        env = make_env(env_config, 1, split="test", seed=seed + first, **how)
        try:
            first = yield from _frames(policy, env, range(first, episodes), deterministic, seed + first, max_steps)
        finally:
            env.close()


def _frames(
    policy: Policy, env: TorchEnv, episodes: range, deterministic: bool | None, seed: int, max_steps: int | None
) -> Generator[Frame, None, int]:
    """Returns the episode to go on with in another env."""
    slot = env.bind(env.empty_steps())
    generator = torch.Generator(env.device).manual_seed(seed)
    policy.eval()
    for episode in episodes:
        step, total = 0, 0.0
        yield Frame(env.env.frame(0), episode, step, total)
        while max_steps is None or step < max_steps:
            ended = env.step(policy.act(env.obs, deterministic=deterministic, generator=generator), slot)
            step, total = step + 1, total + float(slot[0].reward[0])
            yield Frame(env.env.frame(0), episode, step, total)
            if ended is not None:
                env.step(policy.act(env.obs, deterministic=True), slot)  # the step that only resets
                break
        else:
            return episode + 1
    return episodes.stop


def frame_rate(env_config: Any) -> float:
    """Frames a second of a replay in real time, as the env's author says."""
    env = make_env(env_config, 1, split="test", seed=0)
    env.close()
    return float(env.env.metadata.get("render_fps") or 30)


def record(
    policy: Policy,
    env_config: Any,
    folder: Path,
    *,
    name: str,
    caption: str = "",
    formats: tuple[str, ...] = ("gif", "mp4"),
    **options: Any,
) -> list[Path]:
    """Write `folder/name.gif` and `.mp4`; options as for `play`. Returns the paths."""
    frames = [captioned(frame, caption) for frame in play(policy, env_config, **options)]
    rate = frame_rate(env_config)
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{name}.{suffix}" for suffix in formats]
    for path in paths:
        if path.suffix == ".gif":
            stride = max(1, round(rate / GIF_FRAME_RATE), -(-len(frames) // MAX_GIF_FRAMES))
            write_gif(path, [*frames[:-1:stride], frames[-1]], max(1, round(rate / GIF_FRAME_RATE)) / rate)
        else:
            write_mp4(path, frames, rate)
    return paths


def write_gif(path: Path, frames: list[NDArray], seconds: float) -> None:
    """An endless GIF, each frame shown for `seconds`; all share one palette, so that unchanged pixels cost nothing."""
    sample = np.concatenate([frames[0], frames[len(frames) // 2], frames[-1]])
    palette = Image.fromarray(sample).quantize(colors=128, dither=Image.Dither.NONE)
    images = [Image.fromarray(frame).quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames]
    images[0].save(
        path, save_all=True, append_images=images[1:], duration=round(1000 * seconds), loop=0, optimize=False
    )


def write_mp4(path: Path, frames: list[NDArray], rate: float) -> None:
    """An H.264 film of `rate` frames a second, whose sides are cut to even numbers of pixels, as the format wants."""
    height, width = (side // 2 * 2 for side in frames[0].shape[:2])
    writer = imageio_ffmpeg.write_frames(str(path), (width, height), fps=rate, macro_block_size=2)
    writer.send(None)
    for frame in frames:
        writer.send(np.ascontiguousarray(frame[:height, :width]))
    writer.close()


def captioned(frame: Frame, caption: str) -> NDArray:
    """The frame, each pixel as large as it takes to read what stands below: a bar that says what, when and how much."""
    zoom = -(-LEAST_WIDTH // frame.pixels.shape[1])
    pixels = frame.pixels.repeat(zoom, axis=0).repeat(zoom, axis=1)
    height, width, _ = pixels.shape
    image = Image.new("RGB", (width, height + BAR), (32, 34, 40))
    image.paste(Image.fromarray(pixels), (0, 0))
    draw, font = ImageDraw.Draw(image), ImageFont.load_default(13)
    draw.text((8, height + 6), caption, (150, 155, 165), font)
    text = f"step {frame.step}   return {frame.total_reward:.1f}"
    draw.text((width - 8 - draw.textlength(text, font), height + 6), text, (235, 235, 235), font)
    return np.asarray(image)


def show(
    policy: Policy, env_config: Any, *, caption: str = "", columns: int = 60, speed: float = 1.0, **options: Any
) -> None:
    """Play in the terminal, in true colour, at `speed` times real time (works over ssh)."""
    delay = 1.0 / (frame_rate(env_config) * speed)
    out = sys.stdout
    out.write("\x1b[?25l\x1b[2J")  # hide the cursor, clear
    try:
        for frame in play(policy, env_config, **options):
            began = time.monotonic()
            text = f"{caption}  episode {frame.episode + 1}  step {frame.step}  return {frame.total_reward:.1f}"
            out.write(f"\x1b[H{ansi(frame.pixels, columns)}\n\x1b[0m{text}\x1b[K\n")
            out.flush()
            time.sleep(max(0.0, delay - (time.monotonic() - began)))
    finally:
        out.write("\x1b[?25h\x1b[0m")
        out.flush()
