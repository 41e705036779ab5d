"""Colours: those that an object may be asked for in, and the words for them.

A colour's index in `NAMES` is its label everywhere else; -1 stands for the object's own colour. The first twelve are
those of the grounds, in the same order. Knows names and values; knows neither pictures nor grammar.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Colour:
    """A colour that an object may have."""

    name: str
    rgb: tuple[int, int, int]  # sRGB of the object's main parts in their middle tone
    english: tuple[str, ...]  # words before a noun, the name first
    traditional: tuple[str, ...]  # Chinese words that end in their noun, the proper one first
    simplified: tuple[str, ...]
    letter: tuple[str, str] = ("", "")  # one character before a noun, traditional and simplified; empty if none is used


COLOURS = (
    Colour("red", (208, 34, 36), ("red", "scarlet", "crimson"), ("紅色",), ("红色",), ("紅", "红")),
    Colour("orange", (243, 132, 24), ("orange",), ("橙色", "橘色"), ("橙色", "橘色")),
    Colour("yellow", (250, 214, 44), ("yellow",), ("黃色",), ("黄色",), ("黃", "黄")),
    Colour("green", (44, 150, 64), ("green",), ("綠色",), ("绿色",), ("綠", "绿")),
    Colour("blue", (34, 88, 214), ("blue",), ("藍色",), ("蓝色",), ("藍", "蓝")),
    Colour("purple", (130, 54, 186), ("purple", "violet"), ("紫色",), ("紫色",), ("紫", "紫")),
    Colour("pink", (248, 134, 182), ("pink", "hot pink"), ("粉紅色", "粉色"), ("粉红色", "粉色")),
    Colour("brown", (118, 74, 42), ("brown", "dark brown"), ("棕色", "咖啡色"), ("棕色", "咖啡色")),
    Colour("black", (46, 46, 50), ("black", "pitch black"), ("黑色",), ("黑色",), ("黑", "黑")),
    Colour("white", (240, 241, 244), ("white", "pure white"), ("白色",), ("白色",), ("白", "白")),
    Colour("gray", (138, 140, 145), ("gray", "grey"), ("灰色",), ("灰色",), ("灰", "灰")),
    Colour("turquoise", (42, 192, 186), ("turquoise", "teal", "cyan"), ("青色", "藍綠色"), ("青色", "蓝绿色")),
    Colour("sky blue", (118, 190, 246), ("sky blue", "light blue"), ("天藍色", "淺藍色"), ("天蓝色", "浅蓝色")),
    Colour("navy", (30, 44, 112), ("navy", "dark blue", "navy blue"), ("深藍色", "海軍藍"), ("深蓝色", "海军蓝")),
    Colour("gold", (206, 156, 38), ("golden", "gold"), ("金色", "金黃色"), ("金色", "金黄色")),
    Colour("beige", (226, 202, 164), ("beige", "tan"), ("米色", "淺褐色"), ("米色", "浅褐色")),
)  # fmt: skip
NAMES = tuple(colour.name for colour in COLOURS)
OWN = -1  # label of an object whose colour nobody asked for
WORDS = frozenset(phrase.split()[-1] for colour in COLOURS for phrase in colour.english)  # that tell a colour alone
CHARACTERS = frozenset("紅红黃黄綠绿藍蓝紫黑白灰")  # before a Chinese name they may tell its colour
