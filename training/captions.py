"""The grammar of captions: what a person might write who wants a scene.

Knows sentences with holes, in English and both Chinese scripts; knows neither objects' names nor tokens. `phrasebook`
makes tables of it, `samples.captions` joins them.
The held-out templates of the evaluation are in `heldout.py` and share no sentence with this file.
"""

import re
from collections import Counter


def _split(text: str) -> list[str]:
    return text.split("|")


STYLES = _split(
    "a photo of|a picture of|an image of|a drawing of|a painting of|an oil painting of|"
    "an illustration of|a sketch of|a render of|a 3d render of|a watercolor of|a cartoon of|an icon of|"
    "an emoji of|a photorealistic image of|a close-up of|a portrait of|a poster of|a pixel art of|"
    "digital art of|concept art of|clipart of|a sticker of"
)
ASKS = _split(
    "draw|paint|show|show me|draw me|make|make me|create|generate|give me|i want|i want to see|"
    "please draw|can you draw|please make|i need|imagine|let me see|render|could you paint|design|"
    "sketch"
)
TAGS = _split(
    "highly detailed|4k|8k|hd|high quality|cute|trending on artstation|masterpiece|sharp focus|"
    "studio lighting|cinematic|vibrant colors|minimalist|cartoon style|photorealistic|digital art|"
    "3d render|soft light|beautiful|oil painting|isometric|anime style|ultra realistic|best quality|"
    "award winning|dramatic lighting|bokeh"
)
ADJECTIVES = _split(
    "cute|beautiful|small|big|tiny|huge|little|large|old|new|nice|lovely|pretty|funny|shiny|happy|sad|"
    "angry|cool|fancy|colorful|fluffy|magical|strange|simple|modern|vintage|giant|single|delicious|"
    "fresh|fantastic|realistic|good|great|perfect|wonderful|really nice"
)
SCENE_WORDS = {
    "night sky": "at night|in the night sky|under the stars|under a starry sky|at midnight|in the moonlight",
    "sunset": "at sunset|at dusk|in the sunset|during sunset|at dawn|in the evening glow",
    "beach": "on the beach|at the beach|by the sea|on a sandy shore|at the seaside",
    "meadow": "in a meadow|on the grass|in a field|in the park|on a green lawn|in the countryside",
    "snow": "in the snow|in winter|on snow|in a snowy landscape|covered in snow",
    "space": "in space|in outer space|among the stars|in the galaxy|floating in space",
    "underwater": "underwater|under the sea|in the ocean|under water|at the bottom of the sea",
    "desert": "in the desert|in a desert|on a sand dune|among the dunes",
}
BARE_SCENES = {
    "night sky": "a night sky|starry night|night",
    "sunset": "a sunset|sunset|dusk",
    "beach": "a beach|the seaside",
    "meadow": "a meadow|a field of grass",
    "snow": "a snowy landscape|snow|winter",
    "space": "outer space|the galaxy",
    "underwater": "under the sea|underwater|the ocean floor",
    "desert": "a desert|sand dunes",
}
COLOUR_WORDS = _split(
    "on a {c} background|on {c}|against a {c} background|with a {c} background|{c} background|"
    "in front of a {c} wall|on a plain {c} background|over a {c} backdrop|on a {c} backdrop|"
    "set against {c}"
)
BARE_COLOURS = _split("a {c} background|plain {c}|{c} wall|a {c} backdrop")
BESIDE = _split(
    "{a} and {b}|{a} next to {b}|{a} beside {b}|{a} on the left and {b} on the right|"
    "{a} to the left of {b}|{b} to the right of {a}|{b} on the right and {a} on the left|"
    "{a} left, {b} right|{a}, {b}|both {a} and {b}|on the left {a}, on the right {b}|"
    "{a} by the side of {b}|left: {a}, right: {b}|{a} near {b}"
)
ABOVE = _split(
    "{a} above {b}|{a} over {b}|{b} below {a}|{a} on top of {b}|{b} under {a}|{b} underneath {a}|"
    "{a} flying over {b}|{a} at the top and {b} at the bottom|{a} up and {b} down|{a} top, {b} bottom"
)
WITH = _split(
    "{a} with {b}|{a} holding {b}|{a} using {b}|{a} working on {b}|{a} playing {b}|{a} riding {b}|"
    "{a} carrying {b}|{a} programming on {b}|{a} eating {b}|{a} typing on {b}|{a} wearing {b}|"
    "{a} reading {b}|{a} behind {b}|{a} looking at {b}|{a} sitting at {b}|{b} in front of {a}|"
    "{a} that has {b}|{a} coding on {b}"
)
RELATIONS = _split("and|with|on|in|over|under|above|below|near|next to|beside|behind|in front|on top|left|right")
MARKS = (",", ",", ",", ".", "!", "?", ":", ";")
COLOUR_BEFORE = _split("{c}|{c}|{c}|{c}|{c}|{c}|bright {c}|all {c}|{c} colored|{c} coloured|{c}-colored")
COLOUR_AFTER = _split(
    "in {c}|in {c}|in {c} color|in {c} colour|painted {c}|that is {c}|colored {c}|of {c} color|that is all {c}|"
    "which is {c}"
)
COLOUR_APART = _split(", {c}|, {c}|, the color {c}|, {c} one")  # of a lone object
HEAD_LINKS = _split("a|the|my|some|of a|one|really nice|with a")
TAIL_LINKS = _split("for my|for the|so that|because|please|and make it|for|as")
COUNTS = {
    "two": "two|2|a pair of|a couple of|two identical|twin", "three": "three|3|a trio of|three identical",
    "four": "four|4|four identical|a group of four",
}  # fmt: skip
ZH_ASKS = ("", "", "", "畫", "請畫", "給我", "我想要", "生成", "畫一張", "請給我看", "幫我畫"), (
    "", "", "", "画", "请画", "给我", "我想要", "生成", "画一张", "请给我看", "帮我画"
)  # fmt: skip
ZH_STYLES = ("的照片", "的圖片", "的插圖", "的油畫"), ("的照片", "的图片", "的插图", "的油画")
ZH_ADJECTIVES = ("可愛的", "漂亮的", "小小的", "大大的", "美麗的", "開心的"), (
    "可爱的", "漂亮的", "小小的", "大大的", "美丽的", "开心的"
)  # fmt: skip
ZH_ONE = (
    ("一隻", "一個", "一輛", "一座", "一朵", "一張", "一"),
    ("一只", "一个", "一辆", "一座", "一朵", "一张", "一"),
)
ZH_COUNTS = {"two": ("兩", "两"), "three": ("三", "三"), "four": ("四", "四")}
ZH_MEASURES = ("隻", "個", "輛", "顆"), ("只", "个", "辆", "颗")
ZH_BESIDE = ("{a}和{b}", "左邊是{a},右邊是{b}", "{a}在{b}的左邊", "{a}旁邊有{b}", "{a}與{b}"), (
    "{a}和{b}", "左边是{a},右边是{b}", "{a}在{b}的左边", "{a}旁边有{b}", "{a}与{b}"
)  # fmt: skip
ZH_ABOVE = (
    ("{a}在{b}上面", "上面是{a},下面是{b}", "{a}在{b}上方"),
    ("{a}在{b}上面", "上面是{a},下面是{b}", "{a}在{b}上方"),
)
ZH_WITH = (
    ("{a}拿著{b}", "{a}帶著{b}", "{a}在用{b}", "{a}後面,{b}前面"),
    ("{a}拿着{b}", "{a}带着{b}", "{a}在用{b}", "{a}后面,{b}前面"),
)
ZH_BACKGROUNDS = _split("背景上的|背景的|背景前的")
ZH_COLOUR_BEFORE = _split("{c}的|{c}的|{c}")
ZH_COLOUR_AFTER = _split(",{c}的|,{c}|，{c}的")
ZH_MEANT = "一二兩两三四上下左右前後后旁和與与在有大小"  # characters that count, place or size an object


def shared_characters(names: list[list[str]], meant: set[str]) -> list[str]:
    """Characters that several objects' names share and that are no names themselves: alone they mean nothing."""
    meant = meant | {name for own in names for name in own}
    uses = Counter(char for own in names for char in set("".join(own)))
    return sorted(char for char, count in uses.items() if count > 1 and char not in meant)


IRREGULAR = {
    "mouse": "mice",
    "sheep": "sheep",
    "knife": "knives",
    "leaf": "leaves",
    "wolf": "wolves",
    "tooth": "teeth",
}
ALREADY = ("socks", "jeans", "glasses", "gloves", "shorts", "skis", "scissors", "fries", "cherries", "grapes")


def plural(name: str) -> str:
    """The plural of a name: cats, glasses of milk, mice."""
    head, of, rest = name.partition(" of ")
    if of:
        return plural(head) + of + rest
    *words, last = name.split(" ")
    if last in IRREGULAR:
        last = IRREGULAR[last]
    elif last in ALREADY or (re.search(r"[^aiou]s$", last) and not last.endswith("ss")):
        pass
    elif re.search(r"(s|x|ch|sh)$", last):
        last += "es"
    elif re.search(r"[^aeiou]y$", last):
        last = last[:-1] + "ies"
    else:
        last += "s"
    return " ".join([*words, last])
