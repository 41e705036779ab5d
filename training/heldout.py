"""Phrasings that no caption of the training has, for the evaluation alone.

Knows sentences with a hole for a noun; `{a}` takes an article with it, `{n}` does not.
"""

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


def fill(template: str, noun: str) -> str:
    article = "an" if noun[0] in "aeiou" else "a"
    return template.format(a=f"{article} {noun}", n=noun)
