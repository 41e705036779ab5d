"""Held-out phrasings: sentences that no caption of the training has, for the evaluation alone.

Knows sentences with a hole for a noun: `{a}` takes an article with it, `{n}` does not. The ones called fresh were
written by somebody who had read nothing of this project, after the captions had been changed for what the first ones
had shown.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from . import colours

ENGLISH = (
    "please paint me one really nice {n} for my kids",
    "hey, could I get {a} to hang over my desk?",
    "my daughter loves every {n}, so do one for her birthday card",
    "what would {a} look like if you tried your best",
    "something like {a}, but make it pop",
    "I was wondering whether you could do {a} today",
    "{a}, nothing else in the frame",
    "just {a}",
    "{n} please!",
    "we need {a} for the school newsletter by tomorrow",
    "surprise me with {a}",
    "here is what I have in mind: {a}",
    "the most adorable {n} anyone has ever seen",
    "think of {a} and put it on the canvas",
    "a logo featuring {a} for my startup",
    "put together a quick mock-up that contains {a}",
    "as an experiment, try {a}",
    "grandma asked for {a} on her quilt",
    "I would be so happy to receive {a} from you",
    "{a} in the style of a children's story",
    "an award-worthy shot where {a} takes centre stage",
    "could somebody sketch {a} with lots of love",
    "a very ordinary {n}, seen from the front",
    "once upon a time there was {a}",
    "wallpaper of {a} for my phone screen",
    "let's try {a} this time",
    "I'd like you to visualise {a}",
    "picture this: {a}, all by itself",
    "a charming little {n} that makes people smile",
    "do you know how to draw {a}?",
    "we are looking for artwork showing {a}",
    "an avatar of {a} for a forum",
    "it has to be {a}, I insist",
    "greeting card with {a} on its cover",
    "whatever you do, do it with {a}",
    "one {n}, well drawn, thanks",
)

CHINESE = (
    ("可以幫我弄一個{n}嗎", "可以帮我弄一个{n}吗"),
    ("我女兒最喜歡{n}了", "我女儿最喜欢{n}了"),
    ("來一張好看的{n}", "来一张好看的{n}"),
    ("想看看{n}長什麼樣子", "想看看{n}长什么样子"),
    ("麻煩設計{n}貼紙", "麻烦设计{n}贴纸"),
)

FRESH_ENGLISH = (
    "hey, could you whip up {a} for me real quick?",
    "{n} pls",
    "I'd love to see what {a} looks like up close",
    "Would you mind making me {a}? Thank you so much!",
    "just one {n}, nothing else",
    "need {a} asap, it's due tomorrow",
    "Show me the most ordinary {n} you can imagine.",
    "ok so I keep getting asked for {a}, can you make one",
    "one single {n}, highly detailed, sharp focus",
    "Can I get {a}, please and thanks",
    "I'm teaching vocabulary next week and I need {a} as an example.",
    "{n}, realistic, 4k",
    "Let's try something simple: {a}.",
    "gimme {a}",
    "Surprise me with your best take on {a}.",
    "I was wondering if you'd be able to generate {a} for a presentation I'm giving",
    "super cute {n}",
    "What would {a} look like if you made it? Go ahead and show me",
    "a very old {n} with lots of character",
    "Please produce an image containing {a} and absolutely nothing more.",
    "testing this thing out... how about {a}",
    "{a}, seen from slightly above",
    "I can't draw to save my life, so please do {a} for me lol",
    "Create {a} that I can use as my profile pic",
    "somebody I know really wants to see {a}, make it nice",
    "a beautiful close-up shot of a lone {n}",
    "Hi there! I'm looking for {a}, in whatever style you think works best.",
    "{n} but keep it minimal, clean lines",
    "Visualize {a} in soft, gentle lighting.",
    "can u do {a}? not too fancy",
    "I'm putting together a quiz and one of the answers is {a}, so I need that as an image.",
    "a really tiny {n}, please",
    "First thing that comes to mind: {a}. Render it!",
    "It's for a fun project of mine: {a}, something cheerful",
    "watercolor style, {a}, loose brushwork",
    "Been thinking about {a} all day, so let me see one already",
)

FRESH_CHINESE = (
    ("麻煩幫我弄一個{n}的圖，謝謝啦", "麻烦帮我弄一个{n}的图，谢谢啦"),
    ("可以給我來一張{n}嗎？明天上課要用", "可以给我来一张{n}吗？明天上课要用"),
    ("{n}，寫實風格，細節清晰", "{n}，写实风格，细节清晰"),
    ("只要{n}就好，其他什麼都不要", "只要{n}就好，其他什么都不要"),
    ("一直很想看{n}，幫忙做一張可愛一點的吧", "一直很想看{n}，帮忙做一张可爱一点的吧"),
    ("請問能不能生成{n}？我想拿來當頭像", "请问能不能生成{n}？我想拿来当头像"),
    ("隨便試試，先來個{n}", "随便试试，先来个{n}"),
    ("做簡報需要{n}的插圖，簡單大方就行", "做简报需要{n}的插图，简单大方就行"),
    ("水彩風的{n}，感覺溫柔一些", "水彩风的{n}，感觉温柔一些"),
)

# Objects in colours that no sample of the training has: a colour must carry over from the others.
COLOURED = (
    ("cat", "blue"), ("dog", "green"), ("car", "purple"), ("apple", "turquoise"), ("banana", "red"),
    ("rabbit", "orange"), ("horse", "pink"), ("owl", "black"), ("fish", "brown"), ("umbrella", "white"),
    ("teapot", "gray"), ("elephant", "yellow"),
)  # fmt: skip


def fill(template: str, noun: str) -> str:
    """The sentence with the noun in its hole."""
    article = "an" if noun[0] in "aeiou" else "a"
    return template.format(a=f"{article} {noun}", n=noun)


def coloured(names: Sequence[str]) -> Tensor:
    """(N, 2): those of `COLOURED` whose objects are among ``names``, as labels of object and colour."""
    known = [(names.index(name), colours.NAMES.index(colour)) for name, colour in COLOURED if name in names]
    return torch.tensor(known, dtype=torch.long).view(-1, 2)
