"""Whether F(2×2, 3×3) written with PyTorch's operations beats its own 3×3 convolution, at the sizes of the 4-conv net.

    python benchmarks/winograd.py [--examples 5,75] [--repeats 30] [--json FILE]

One thread, 64 channels in and out, channels last, stride 1, zeros around the image. The fast way (Winograd 1980; Lavin
and Gray 2016) takes a 4×4 tile of the image for every 2×2 of the output: 16 products in place of 36. "products alone"
is its batched matrix product without its transforms: what would be left if these cost nothing. The program stops
unless both ways agree to 1e-3.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F

from speed import timed

CHANNELS = 64
WEIGHT_TRANSFORM = torch.tensor([[1, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]])


def image_tiles(x: torch.Tensor) -> torch.Tensor:
    """[16, N·H/2·W/2, C]: Bᵀ d B of every tile d of x [N, C, H, W]."""
    n, c, height, width = x.shape
    rows, columns = (height + 1) // 2, (width + 1) // 2
    padded = F.pad(x.permute(0, 2, 3, 1), (0, 0, 1, 1 + width % 2, 1, 1 + height % 2))
    down = _differences([padded[:, i : i + 2 * rows - 1 : 2] for i in range(4)])
    across = _differences([down[:, :, :, i : i + 2 * columns - 1 : 2] for i in range(4)])
    return across.transpose(0, 1).reshape(16, n * rows * columns, c)


def _differences(parts: list[torch.Tensor]) -> torch.Tensor:
    return torch.stack([parts[0] - parts[2], parts[1] + parts[2], parts[2] - parts[1], parts[1] - parts[3]])


def weight_tiles(weight: torch.Tensor) -> torch.Tensor:
    """[16, in, out]: G g Gᵀ of every filter g of weight [out, in, 3, 3]."""
    transform = torch.kron(WEIGHT_TRANSFORM, WEIGHT_TRANSFORM)
    return (transform @ weight.permute(2, 3, 1, 0).reshape(9, -1)).view(16, weight.shape[1], weight.shape[0])


def from_tiles(tiles: torch.Tensor, n: int, height: int, width: int) -> torch.Tensor:
    """[N, out, H, W]: Aᵀ m A of every tile m of [16, N·H/2·W/2, out]."""
    rows, columns = (height + 1) // 2, (width + 1) // 2
    m = tiles.view(4, 4, n, rows, columns, -1)
    down = torch.stack([m[0] + m[1] + m[2], m[1] - m[2] - m[3]])
    both = torch.stack([down[:, 0] + down[:, 1] + down[:, 2], down[:, 1] - down[:, 2] - down[:, 3]])
    image = both.permute(2, 3, 1, 4, 0, 5).reshape(n, 2 * rows, 2 * columns, -1)
    return image[:, :height, :width].permute(0, 3, 1, 2)


def winograd(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    return from_tiles(torch.bmm(image_tiles(x), weight_tiles(weight)), x.shape[0], *x.shape[2:])


def ways(n: int, side: int) -> dict[str, Callable[[], torch.Tensor]]:
    x = torch.randn(n, CHANNELS, side, side).contiguous(memory_format=torch.channels_last)
    weight = torch.randn(CHANNELS, CHANNELS, 3, 3).contiguous(memory_format=torch.channels_last)
    tiles, filters = image_tiles(x), weight_tiles(weight)
    chosen = {
        "convolution": lambda: F.conv2d(x, weight, padding=1),
        "F(2x2, 3x3)": lambda: winograd(x, weight),
        "products alone": lambda: torch.bmm(tiles, filters),
    }
    if not torch.allclose(chosen["convolution"](), chosen["F(2x2, 3x3)"](), rtol=0, atol=1e-3):
        raise SystemExit("the two ways do not compute the same thing")
    return chosen


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--examples", default="5,75")
    parser.add_argument("--repeats", type=int, default=30)
    parser.add_argument("--json", default=None)
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    lines = []
    for n in map(int, options.examples.split(",")):
        for side in (14, 7):
            chosen = ways(n, side)
            times: dict[str, list[float]] = {name: [] for name in chosen}
            for _ in range(options.repeats):
                for name, run in chosen.items():
                    times[name].append(timed(run, "cpu"))
            middle = {name: statistics.median(values) for name, values in times.items()}
            lines.append({"examples": n, "side": side} | middle)
            direct = middle["convolution"]
            others = ", ".join(f"{name} {middle[name] / direct:.2f} times that" for name in list(middle)[1:])
            print(f"{n} images of {side}x{side}: convolution {direct * 1e3:.2f} ms; {others}", flush=True)
    if options.json:
        Path(options.json).write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")


if __name__ == "__main__":
    main()
