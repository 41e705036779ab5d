import re

import pytest
import torch
from torch import Tensor
from transformers import CLIPTokenizer

from training import captions, colours, grounds, heldout
from training.samples.captions import WORDS
from training.samples.maker import SampleMaker
from training.scenes import LAYOUTS

LONG = 96
NONE = -1


def told(maker: SampleMaker, tokenizer: CLIPTokenizer, row: tuple[int, ...], times: int = 200) -> list[str]:
    """Captions of one row of labels, as text."""
    ids = maker.captions(torch.tensor([row] * times), LONG)
    return [tokenizer.decode(ids_, skip_special_tokens=True) for ids_ in ids]


def encoded(tokenizer: CLIPTokenizer, texts: list[str], length: int) -> Tensor:
    ids: Tensor = tokenizer(texts, padding="max_length", truncation=True, max_length=length, return_tensors="pt")[
        "input_ids"
    ]
    return ids


def test_a_caption_has_the_tokens_that_its_text_has(maker: SampleMaker, tokenizer: CLIPTokenizer) -> None:
    """Pieces are tokenized one by one and joined: a Chinese character has another token at the end of its run."""
    ids = maker.captions(maker.labels(3000), LONG)
    texts = [tokenizer.decode(row, skip_special_tokens=True) for row in ids]
    assert torch.equal(ids, encoded(tokenizer, texts, LONG))
    assert len(set(texts)) > 2500
    assert sum(bool(re.search("[一-龥]", text)) for text in texts) > 600


def test_a_long_caption_is_cut_as_the_words_of_a_long_prompt_are(maker: SampleMaker, tokenizer: CLIPTokenizer) -> None:
    labels = maker.labels(1500)
    state = maker.generator.get_state()
    whole = maker.captions(labels, LONG)
    maker.generator.set_state(state)
    short = maker.captions(labels)
    assert short.shape == (1500, WORDS)
    texts = [tokenizer.decode(row, skip_special_tokens=True) for row in whole]
    assert (short[:, -1] != tokenizer.eos_token_id).any(), "some are longer"
    closes = encoded(tokenizer, texts, LONG)[:, : WORDS - 1]
    assert torch.equal(short[:, :-1], closes)


@pytest.mark.parametrize("colour", ["blue", "gray", "navy", "gold"])
def test_a_caption_says_the_colour_of_its_object(maker: SampleMaker, tokenizer: CLIPTokenizer, colour: str) -> None:
    place = colours.NAMES.index(colour)
    words = [*colours.COLOURS[place].english, *colours.COLOURS[place].traditional, *colours.COLOURS[place].simplified]
    words += [letter for letter in colours.COLOURS[place].letter if letter]
    for text in told(maker, tokenizer, (LAYOUTS.index("single"), 0, 0, place, NONE, NONE)):
        assert any(word in text for word in words), text


def test_no_colour_is_said_that_nobody_asked_for(maker: SampleMaker, tokenizer: CLIPTokenizer) -> None:
    """Colour words were adjectives that meant nothing: "a blue car" was an orange one as often as not."""
    assert int(maker.own[2]) == colours.NAMES.index("gray")
    assert int(maker.own[0]) in (NONE, colours.NAMES.index("orange"))
    allowed = {"orange"} if int(maker.own[0]) >= 0 else set()
    for text in told(maker, tokenizer, (LAYOUTS.index("single"), 0, 0, NONE, NONE, NONE), 400):
        assert not (colours.WORDS - allowed) & set(text.split()), text


def test_an_object_may_be_called_by_the_colour_that_it_has(maker: SampleMaker, tokenizer: CLIPTokenizer) -> None:
    texts = told(maker, tokenizer, (LAYOUTS.index("single"), 0, 2, NONE, NONE, NONE), 600)
    said = sum("gray" in text or "grey" in text or "灰" in text for text in texts)
    assert 20 < said < 160


def test_the_ground_has_its_own_colour(maker: SampleMaker, tokenizer: CLIPTokenizer) -> None:
    blue, red = colours.NAMES.index("blue"), 1 + list(grounds.COLOURS).index("red")
    texts = told(maker, tokenizer, (LAYOUTS.index("single"), red, 0, blue, NONE, NONE))
    english = [text for text in texts if re.search("[a-z]", text)]
    assert all("red" in text and "blue" in text for text in english)
    assert not any(re.search(r"\bblue (colou?red )?(background|backdrop|wall)", text) for text in english)
    assert not [text for text in english if re.search(r"\bred (ball|sphere)", text)]


def test_a_name_with_a_colour_is_not_said_of_another_colour(maker: SampleMaker, tokenizer: CLIPTokenizer) -> None:
    blue = colours.NAMES.index("blue")
    texts = told(maker, tokenizer, (LAYOUTS.index("single"), 0, 1, blue, NONE, NONE))
    assert not any("red" in text.split() or "紅" in text or "红" in text for text in texts)
    assert all("cup" in text or "杯子" in text for text in texts)


def test_pairs_name_both_and_say_which_has_which_colour(maker: SampleMaker, tokenizer: CLIPTokenizer) -> None:
    green, pink = (colours.NAMES.index(name) for name in ("green", "pink"))
    for layout in ("beside", "above", "with"):
        for text in told(maker, tokenizer, (LAYOUTS.index(layout), 0, 0, green, 2, pink), 150):
            if re.search("[一-龥]", text):
                assert "球" in text, text
                assert "盒子" in text, text
                continue
            ball, box = (re.search(pattern, text) for pattern in ("ball|sphere", "box"))
            assert ball, text
            assert box, text
            assert (ball.start() < box.start()) == (text.index("green") < text.index("pink")), text


def test_what_describes_nothing_names_nothing(maker: SampleMaker, tokenizer: CLIPTokenizer) -> None:
    texts = told(maker, tokenizer, (NONE,) * 6, 300)
    names = {"ball", "sphere", "cup", "box", "ghost", "bell", "star"}
    assert "" in texts
    assert not any(names & set(text.split()) for text in texts)


def test_counts_are_said_with_plurals(maker: SampleMaker, tokenizer: CLIPTokenizer) -> None:
    for text in told(maker, tokenizer, (LAYOUTS.index("three"), 0, 2, NONE, NONE, NONE)):
        assert re.search(r"\bboxes\b|三.*盒子", text), text
        assert re.search(r"three|3|trio|三", text), text


def test_the_held_out_phrasings_stay_held_out(maker: SampleMaker, tokenizer: CLIPTokenizer) -> None:
    """The evaluation asks with sentences that the training must not have, but for those of one or two words."""
    templates = (*heldout.ENGLISH, *heldout.FRESH_ENGLISH)
    plain = [" ".join(re.findall("[a-z']+", t.lower().replace("{a}", "").replace("{n}", ""))) for t in templates]
    forms = [*captions.BESIDE, *captions.ABOVE, *captions.WITH, *captions.STYLES, *captions.ASKS]
    said = " | ".join(" ".join(re.findall("[a-z']+", form)) for form in forms)
    texts = " | ".join(
        " ".join(re.findall("[a-z']+", tokenizer.decode(row, skip_special_tokens=True)))
        for row in maker.captions(maker.labels(2000), LONG)
    )
    for phrase in plain:
        if len(phrase.split()) >= 3:
            assert phrase not in said
            assert phrase not in texts
