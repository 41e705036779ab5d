from training.tokens import learn_merges


def test_the_most_frequent_pairs_are_merged_first() -> None:
    merges = learn_merges({"cat": 5, "car": 4, "dog": 1}, 3)
    assert merges == [("c", "a"), ("ca", "t</w>"), ("ca", "r</w>")]


def test_equals_are_ordered_by_their_letters() -> None:
    """The tokenizers library orders them by a hash table, so every packing gave another tokenizer."""
    words = dict.fromkeys(("zoo", "ant", "elk", "bee"), 1)
    assert learn_merges(words, 50) == learn_merges(dict(reversed(words.items())), 50)
    assert learn_merges(words, 1) == [("a", "n")]


def test_learning_ends_when_all_words_are_whole() -> None:
    assert len(learn_merges({"aaaa": 1, "ab": 1}, 100)) < 10
    assert ("a", "b</w>") in learn_merges({"aaaa": 1, "ab": 1}, 100)
