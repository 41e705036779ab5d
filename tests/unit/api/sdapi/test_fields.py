"""A1111's fields, in every type in which its clients send them."""

from __future__ import annotations

from typing import Any

import pytest

from server.api.sdapi.fields import read_fields
from server.errors import BadRequest


@pytest.mark.parametrize(
    ("sent", "read"),
    [
        ({"width": "512"}, 512),
        ({"width": 640.0}, 640),
        ({"width": "768.0"}, 768),
        ({"width": None}, 512),
        ({"width": ""}, 512),
        ({"cfg_scale": 1}, 1.0),
        ({"hr_scale": "1.0"}, 1.0),
        ({"enable_hr": "false"}, False),
        ({"enable_hr": "true"}, True),
        ({"inpaint_full_res": 0}, False),
        ({"inpainting_mask_invert": True}, 1),
        ({"seed": 7}, 7),
        ({"seed": "7"}, 7),
        ({"seed": -1}, -1),
        ({"seed": -99}, -1),
        ({"seed": ""}, -1),
        ({"seed": None}, -1),
        ({"seed": "any"}, -1),
        ({"seed": "1e400"}, -1),
        ({"prompt": ["one", "two"]}, "one"),
        ({"negative_prompt": None}, ""),
        ({"init_images": "abcd"}, ["abcd"]),
        ({"steps": None}, None),
    ],
)
def test_every_spelling_of_a_value(sent: dict[str, Any], read: object) -> None:
    (name,) = sent
    found = getattr(read_fields(sent), name)
    assert found == read
    assert type(found) is type(read)


@pytest.mark.parametrize(
    ("sent", "named"),
    [
        ({"width": "wide"}, "width"),
        ({"steps": 1.5}, "steps"),
        ({"cfg_scale": "inf"}, "cfg_scale"),
        ({"denoising_strength": 1.5}, "denoising_strength"),
        ({"batch_size": 0}, "batch_size"),
        ({"batch_size": 100}, "batch_size"),
        ({"batch_size": 4, "n_iter": 3}, "batch_size"),
        ({"n_iter": 11}, "n_iter"),
        ({"resize_mode": 4}, "resize_mode"),
        ({"init_images": [7]}, "init_images"),
        ({"prompt": 7}, "prompt"),
        ({"prompt": "a\x00b"}, "prompt"),
        ({"override_settings": "x"}, "override_settings"),
    ],
)
def test_what_cannot_be_read_is_named(sent: dict[str, Any], named: str) -> None:
    with pytest.raises(BadRequest) as refused:
        read_fields(sent)
    assert refused.value.param == named
    assert named in refused.value.message


def test_too_many_pictures_are_told_the_bound() -> None:
    with pytest.raises(BadRequest, match="at most 10"):
        read_fields({"batch_size": 10, "n_iter": 10})


def test_unknown_fields_and_what_they_carry_are_never_repeated() -> None:
    """SillyTavern sends the user name and the password beside its fields."""
    fields = read_fields({
        "auth": "user:secret",
        "url": "http://secret",
        "override_settings": {"sd_vae": "x", "auth": "secret"},
        "alwayson_scripts": {"x": {"args": ["secret"]}},
        "init_images": ["secret"],
        "mask": "secret",
    })  # fmt: skip
    for edit in (True, False):
        said = fields.echo(edit=edit)
        assert "secret" not in str(said)
        assert "auth" not in said
        assert said["override_settings"] == {"sd_vae": "x"}
    assert fields.echo(edit=True)["init_images"] is None
    assert "init_images" not in fields.echo(edit=False)


def test_sources_are_repeated_where_that_is_asked_for() -> None:
    said = read_fields({"init_images": ["abcd"], "mask": "efgh", "include_init_images": True}).echo(edit=True)
    assert (said["init_images"], said["mask"]) == (["abcd"], "efgh")


def test_mask_blur_goes_before_its_two_parts() -> None:
    assert read_fields({}).blur == (4, 4)
    assert read_fields({"mask_blur_x": 8}).blur == (8, 4)
    assert read_fields({"mask_blur_x": 8, "mask_blur": 2}).blur == (2, 2)
