"""Text encoders that stay in host memory: the same output, two blocks on the device, the weights untouched."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
import transformers
from torch.utils.weak import WeakIdKeyDictionary

from pipelines.models import streaming
from pipelines.models.streaming import Copies, Streamed, stream_encoders

CPU = torch.device("cpu")
IDS = torch.arange(2, 12).reshape(2, 5)


class Counted(Copies):
    """Copies that know how many bytes of them there are."""

    def __init__(self, device: torch.device) -> None:
        super().__init__(device)
        self.waited: set[int] = set()
        self.live: Any = WeakIdKeyDictionary()
        self.peak = self.begun = 0

    def begin(self, tensors: list[torch.Tensor]) -> list[torch.Tensor]:
        copies = super().begin(tensors)
        for copy in copies:
            self.live[copy] = copy.nbytes
        self.begun += 1
        self.peak = max(self.peak, sum(self.live.values()))
        return copies

    def wait(self, tensors: list[torch.Tensor]) -> None:
        self.waited.update(map(id, tensors))


def t5() -> Any:
    config = transformers.T5Config(vocab_size=64, d_model=32, d_kv=8, d_ff=64, num_layers=6, num_heads=4)
    return transformers.T5EncoderModel(config).eval()


def clip() -> Any:
    config = transformers.CLIPTextConfig(
        vocab_size=64, hidden_size=32, intermediate_size=64, num_hidden_layers=6, num_attention_heads=4
    )
    return transformers.CLIPTextModelWithProjection(config).eval()


def qwen3() -> Any:
    config = transformers.Qwen3Config(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=6,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        tie_word_embeddings=True,
    )
    return transformers.Qwen3ForCausalLM(config).eval()


BUILDS = [t5, clip, qwen3]


def outputs(encoder: torch.nn.Module) -> list[torch.Tensor]:
    with torch.no_grad():
        made = encoder(IDS, output_hidden_states=True)
    return [made[0], *made.hidden_states]


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streaming, "MIN_STREAMED_BYTES", 1024)


def streamed(encoder: torch.nn.Module) -> tuple[Streamed, Counted]:
    made: list[Counted] = []

    def make(device: torch.device) -> Counted:
        made.append(Counted(device))
        return made[0]

    pipeline = SimpleNamespace(
        components={"text_encoder": encoder, "tokenizer": object(), "vae": torch.nn.Linear(1, 1)}
    )
    found = stream_encoders(pipeline, CPU, host_bytes=0, make_copies=make)
    return found["text_encoder"], made[0]


@pytest.mark.parametrize("build", BUILDS)
def test_a_streamed_encoder_makes_the_same_of_a_prompt(build: Any) -> None:
    encoder = build()
    expected = outputs(encoder)
    _, copies = streamed(encoder)
    for _ in range(3):  # the first forward finds the order, the next bring ahead
        for one, other in zip(outputs(encoder), expected, strict=True):
            assert torch.equal(one, other)
    assert copies.waited


@pytest.mark.parametrize("build", BUILDS)
def test_two_units_are_on_the_device_at_most(build: Any) -> None:
    encoder = build()
    units = sorted((sum(p.nbytes for p in ps) for _, ps in streaming._units(encoder)), reverse=True)
    _, copies = streamed(encoder)
    for _ in range(3):
        outputs(encoder)
    assert units[0] < copies.peak <= units[0] + units[1]
    assert sum(copies.live.values()) == 0
    whole = sum(p.nbytes for p in encoder.parameters())
    assert copies.peak < whole / 2


@pytest.mark.parametrize("build", BUILDS)
def test_nearly_nothing_of_an_encoder_stays_and_the_rest_is_as_it_was(build: Any) -> None:
    encoder = build()
    before = {name: (p.data_ptr(), p.stride(), p.clone()) for name, p in encoder.named_parameters()}
    held, _ = streamed(encoder)
    outputs(encoder)
    stays = sum(p.nbytes for p in encoder.parameters() if p not in held.parameters)
    assert stays < 0.05 * sum(p.nbytes for p in encoder.parameters())
    for name, parameter in encoder.named_parameters():
        address, stride, value = before[name]
        assert (parameter.data_ptr(), parameter.stride()) == (address, stride), "nothing is copied back"
        assert torch.equal(parameter, value)


def test_a_block_that_fails_leaves_the_weights_where_they_were() -> None:
    encoder = t5()
    expected = outputs(encoder)
    _, copies = streamed(encoder)
    outputs(encoder)
    third: Any = encoder
    hook = third.encoder.block[3].layer[0].register_forward_pre_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        outputs(encoder)
    hook.remove()
    assert torch.equal(outputs(encoder)[0], expected[0])
    assert sum(copies.live.values()) == 0


def test_inputs_that_lie_where_the_encoder_seems_to_be_come_to_the_device() -> None:
    """A pipeline that asks a streamed encoder for its device is told the host's."""
    where = torch.device("meta")
    assert streaming._to({"input_ids": [IDS], "use_cache": False}, where)["input_ids"][0].device == where
