"""Images by their numbers: of files or in memory, as they come or still encoded."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from metascale.core.errors import CorruptFile, InputError
from metascale.core.optional import require

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm"})
_MOST_KEPT = 2 << 30


@dataclass(frozen=True, eq=False)
class ImageFiles:
    """Image files, decoded when first asked for; ids [...] give ``{"x": [..., channels, height, width]}`` in [0, 1].

    Decoded images are kept up to 2 GiB; others are decoded each time. Images of 16 bits are divided by 65535, so that
    none of their 65,536 values is lost.

    Args:
        paths: one file an id.
        size: height and width after resizing.
        channels: 1 or 3.
    """

    paths: tuple[Path, ...]
    size: tuple[int, int]
    channels: int
    _decoded: dict[int, np.ndarray] = field(default_factory=dict, repr=False)

    def __call__(self, ids: np.ndarray) -> dict[str, torch.Tensor]:
        images = np.stack([_in_unit(self._image(number)) for number in ids.ravel().tolist()])
        return {"x": torch.from_numpy(images).view(*ids.shape, self.channels, *self.size)}

    def _image(self, number: int) -> np.ndarray:
        if number not in self._decoded:
            try:
                pixels = self._pixels(self.paths[number])
            except OSError as error:
                raise InputError(f"cannot read the image {self.paths[number]}: {error}", field="data") from error
            shape = (*self.size, self.channels)
            image: np.ndarray = np.broadcast_to(pixels, shape).transpose(2, 0, 1).copy()
            if len(self._decoded) * image.nbytes >= _MOST_KEPT:
                return image
            self._decoded[number] = image
        return self._decoded[number]

    def _pixels(self, path: Path) -> np.ndarray:
        """[height, width, channels or 1]: bytes, or of 16-bit images float32 in [0, 1]."""
        image = require("PIL.Image", "images", "reading images")
        with image.open(path) as opened:
            if opened.mode.startswith("I"):  # Pillow would cut 16 bits off at 255
                plain = image.fromarray(np.asarray(opened, np.float32) / 65535)
            else:
                plain = opened.convert("L" if self.channels == 1 else "RGB")
            return np.asarray(plain.resize(self.size[::-1], image.BILINEAR)).reshape(*self.size, -1)


def _in_unit(pixels: np.ndarray) -> np.ndarray:
    """Bytes as float32 in [0, 1]; real numbers stay."""
    return pixels.astype(np.float32) / np.float32(255) if pixels.dtype == np.uint8 else pixels


@dataclass(frozen=True, eq=False)
class Pictures:
    """Colour images in memory, as bytes; ids [...] give ``{"x": [..., 3, height, width]}`` in [0, 1].

    Args:
        parts: of each split uint8 [n, height, width, 3], or n encoded images (PNG or JPEG), decoded when asked for.
        pixels: height and width; encoded images of another size are resized.
    """

    parts: tuple[np.ndarray | Sequence[bytes], ...]
    pixels: int
    _ends: tuple[int, ...] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_ends", tuple(np.cumsum([len(part) for part in self.parts]).tolist()))

    def __call__(self, ids: np.ndarray) -> dict[str, torch.Tensor]:
        images = np.stack([self._image(number) for number in ids.ravel().tolist()])
        x = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255
        return {"x": x.reshape(*ids.shape, 3, self.pixels, self.pixels)}

    def _image(self, number: int) -> np.ndarray:
        place = next(place for place, end in enumerate(self._ends) if number < end)
        image = self.parts[place][number - (self._ends[place - 1] if place else 0)]
        return image if isinstance(image, np.ndarray) else self._decoded(image, number)

    def _decoded(self, data: bytes, number: int) -> np.ndarray:
        pillow = require("PIL.Image", "images", "decoding images")
        try:
            with pillow.open(io.BytesIO(data)) as image:
                plain = image.convert("RGB").resize((self.pixels, self.pixels), pillow.BILINEAR)
        except (OSError, SyntaxError) as error:
            raise CorruptFile(f"image {number} cannot be decoded ({error})") from error
        return np.asarray(plain)
