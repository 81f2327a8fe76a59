"""Colours: an ordered ramp for axes of numbers, distinct hues for axes of words, in a light and a dark set.

The ramp is laid out in the OKLCH colour space, where equal steps of lightness look equal, so that the order of the
values can be read off without colour vision.
"""

import math

INK = {"light": "#1b2330", "dark": "#e7ebf2"}
# Okabe and Ito's set, which colour-blind readers can tell apart, lightened where the page is dark.
_WORDS = {
    "light": ("#0072b2", "#d55e00", "#009e73", "#b0568c", "#8a6d00", "#3a9bd6", "#555f6e"),
    "dark": ("#56a9e0", "#f08a4b", "#3dc79a", "#e08cc0", "#e0bf3d", "#8fd0f5", "#aab4c2"),
}
# (lightness, chroma, hue in degrees) at the small and at the large end, with a way point between them.
_RAMP = {
    "light": ((0.36, 0.15, 300.0), (0.56, 0.13, 225.0), (0.74, 0.16, 112.0)),
    "dark": ((0.60, 0.17, 300.0), (0.74, 0.12, 215.0), (0.90, 0.15, 108.0)),
}


def ordered(count: int, mode: str = "light") -> list[str]:
    """`count` colours from dark violet to yellow-green (from mid-tone to bright in the dark set)."""
    if count == 1:
        return [_ramp(0.5, mode)]
    return [_ramp(i / (count - 1), mode) for i in range(count)]


def distinct(count: int, mode: str = "light") -> list[str]:
    """`count` colours without an order; they repeat after seven."""
    return [_WORDS[mode][i % len(_WORDS[mode])] for i in range(count)]


def _ramp(u: float, mode: str) -> str:
    low, middle, high = _RAMP[mode]
    start, end, v = (low, middle, 2 * u) if u <= 0.5 else (middle, high, 2 * u - 1)
    return _hex(*(a + (b - a) * v for a, b in zip(start, end, strict=True)))


def _hex(lightness: float, chroma: float, hue: float) -> str:
    """OKLCH to sRGB (Ottosson 2020), with chroma lowered until the colour can be shown."""
    while True:
        a, b = chroma * math.cos(math.radians(hue)), chroma * math.sin(math.radians(hue))
        long = (lightness + 0.3963377774 * a + 0.2158037573 * b) ** 3
        medium = (lightness - 0.1055613458 * a - 0.0638541728 * b) ** 3
        short = (lightness - 0.0894841775 * a - 1.2914855480 * b) ** 3
        rgb = (
            4.0767416621 * long - 3.3077115913 * medium + 0.2309699292 * short,
            -1.2684380046 * long + 2.6097574011 * medium - 0.3413193965 * short,
            -0.0041960863 * long - 0.7034186147 * medium + 1.7076147010 * short,
        )
        if chroma <= 0 or all(-1e-4 <= c <= 1.0001 for c in rgb):
            break
        chroma = max(0.0, chroma - 0.005)
    channels = [min(max(c, 0.0), 1.0) for c in rgb]
    encoded = [12.92 * c if c <= 0.0031308 else 1.055 * c ** (1 / 2.4) - 0.055 for c in channels]
    return "#" + "".join(f"{round(255 * c):02x}" for c in encoded)
