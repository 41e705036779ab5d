"""The last layer of the text encoder that ships."""

from pathlib import Path

import torch
from transformers import CLIPTextModel, CLIPTokenizer

from training import codes

WEIGHTS = Path(__file__).parents[3] / "weights" / "darkroom-mini"


def test_the_encoder_that_ships_distributes_what_it_has_read() -> None:
    tokenizer = CLIPTokenizer.from_pretrained(WEIGHTS / "tokenizer", local_files_only=True)
    net = CLIPTextModel.from_pretrained(WEIGHTS / "text_encoder", local_files_only=True).float().eval()
    prompts = ["a cat on the left and a laptop on the right", "three strawberries on a blue background", "一隻貓"]
    inputs = tokenizer(prompts, padding="max_length", truncation=True, return_tensors="pt")
    with torch.inference_mode():
        hidden = net(inputs["input_ids"]).last_hidden_state
    for which, (whole, part) in enumerate(
        ((codes.FIRST_WHOLE, codes.FIRST), (codes.SECOND_WHOLE, codes.SECOND)),
    ):
        read = codes.part_tokens(codes.quarter_numbers(hidden[:, whole : whole + codes.QUARTERS]), which)
        distributed = hidden[:, part : part + codes.PARTS]
        assert (distributed - read).square().mean() < 0.05  # of 1
