"""Pictures and sound of models that are known: where a picture changes, there the keys change, and nowhere else."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn

import pellucid
from pellucid import Frames, Image
from tests.watch import models
from tests.watch.models import Model

PATCH, MERGE, TIMES = 4, 2, 2
SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 32}
TEXT = SIZES | {"num_key_value_heads": 2, "vocab_size": 99, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
IMAGE, VIDEO, BEGIN, END = 90, 91, 92, 93
BEAMS = {"num_beams": 2, "do_sample": False, "max_new_tokens": 3, "return_dict_in_generate": True}


def pixels(*shape: int, seed: int = 0) -> Tensor:
    """Pictures [pictures, 3, height, width] whose smallest and largest numbers are in their first two pixels."""
    made = torch.rand(*shape, generator=torch.Generator().manual_seed(seed))
    made[:, :, 0, 0], made[:, :, 0, 1] = -1, 2
    return made


# Towers alone.

TOWERS: dict[str, Callable[[], tuple[Any, int]]] = {
    "vit": lambda: (transformers.ViTModel(transformers.ViTConfig(**SIZES, image_size=24, patch_size=8)), 1),
    "vit classifier": lambda: (
        transformers.ViTForImageClassification(transformers.ViTConfig(**SIZES, image_size=24, patch_size=8)), 1,
    ),
    "vit_msn": lambda: (transformers.ViTMSNModel(transformers.ViTMSNConfig(**SIZES, image_size=24, patch_size=8)), 1),
    "deit": lambda: (transformers.DeiTModel(transformers.DeiTConfig(**SIZES, image_size=24, patch_size=8)), 2),
    "dinov2": lambda: (transformers.Dinov2Model(transformers.Dinov2Config(**SIZES, image_size=24, patch_size=8)), 1),
    "dinov2 with registers": lambda: (
        transformers.Dinov2WithRegistersModel(
            transformers.Dinov2WithRegistersConfig(**SIZES, image_size=24, patch_size=8, num_register_tokens=3)
        ), 4,
    ),
    "dinov3": lambda: (
        transformers.DINOv3ViTModel(
            transformers.DINOv3ViTConfig(**SIZES, image_size=24, patch_size=8, num_register_tokens=2)
        ), 3,
    ),
    "clip": lambda: (
        transformers.CLIPVisionModel(transformers.CLIPVisionConfig(**SIZES, image_size=24, patch_size=8)), 1,
    ),
    "siglip": lambda: (
        transformers.SiglipVisionModel(transformers.SiglipVisionConfig(**SIZES, image_size=24, patch_size=8)), 0,
    ),
}  # fmt: skip


def seen(model: Any, inputs: dict[str, Any], **options: Any) -> Any:
    with torch.no_grad(), pellucid.watch(model, keep=True, **options) as record:
        model(**inputs)
    return record


def assert_changes_where_pictures_do(record: Any, other: Any, first_layers: str) -> None:
    """In the first layers' keys and in the pictures of two runs, the same patches are others."""
    assert record.images == other.images
    checked = 0
    for image, changed in zip(record.images, other.images, strict=True):
        is_other = (image.picture != changed.picture).any(-1)
        cells = is_other.view(image.rows, len(is_other) // image.rows, image.columns, -1).any(3).any(1)
        for name in (name for name in image.layers if first_layers in name and record[name].role != "cross"):
            keys = (record[name].key != other[name].key).any(-1).any(1)[image.sequence]
            assert torch.equal(keys[image.patches], cells), (name, image)
            checked += int(cells.any())
    assert checked


@pytest.mark.parametrize("name", TOWERS)
@pytest.mark.parametrize("place", [(1, 2), (2, 0)])
def test_a_tower_has_a_grid_after_its_special_tokens(name: str, place: tuple[int, int]) -> None:
    model, special = TOWERS[name]()
    shown = pixels(2, 3, 24, 24)
    row, column = place
    other = shown.clone()
    other[1, :, row * 8 + 3, column * 8 + 5] = 1.5
    record, changed = (seen(model.eval(), {"pixel_values": one}) for one in (shown, other))
    assert {name for image in record.images for name in image.layers} == set(record)
    assert all(image.segment == (special, special + 9) for image in record.images if not image.source)
    assert_changes_where_pictures_do(record, changed, ".0.")
    (image,) = record.images_of(0, 1)
    assert (image.name, image.rows, image.columns) == ("image 1", 3, 3)
    assert any("its smallest number black" in note for note in record.notes)


def test_a_pooling_head_looks_at_the_patches_as_a_source() -> None:
    record = seen(TOWERS["siglip"]()[0].eval(), {"pixel_values": pixels(2, 3, 24, 24)})
    (head,) = (name for name in record if record[name].role == "cross")
    (image,) = record.images_of(head, 1, "keys")
    assert (image.source, image.segment) == (True, (0, 9))
    assert record.images_of(head, 1, "queries") == []


def test_a_picture_ends_where_its_patches_do() -> None:
    model = TOWERS["dinov2"]()[0].eval()
    record = seen(model, {"pixel_values": pixels(1, 3, 29, 39)})
    (image,) = record.images
    assert (image.rows, image.columns, list(image.picture.shape)) == (3, 4, [24, 32, 3])


def test_a_picture_is_scaled_from_its_smallest_to_its_largest_number() -> None:
    shown = pixels(1, 3, 24, 24)
    (image,) = seen(TOWERS["vit"]()[0].eval(), {"pixel_values": shown}).images
    expected = ((shown[0] + 1) / 3 * 255).permute(1, 2, 0)
    torch.testing.assert_close(image.picture.float(), expected, atol=0.51, rtol=0)


def test_two_calls_have_their_own_pictures() -> None:
    model = TOWERS["vit"]()[0].eval()
    shown = [pixels(1, 3, 24, 24, seed=seed) for seed in (0, 1)]
    alone = [seen(model, {"pixel_values": one}).images[0].picture for one in shown]
    with torch.no_grad(), pellucid.watch(model) as record:
        for one in shown:
            model(one)
    for name in record:
        (image,) = record.images_of(name)
        assert torch.equal(image.picture, alone[name.endswith("#2")])


def test_a_model_with_a_grid_of_its_own_has_none() -> None:
    config = transformers.ViTMAEConfig(**SIZES, image_size=24, patch_size=8)  # drops patches, and shuffles the others
    record = seen(transformers.ViTMAEModel(config).eval(), {"pixel_values": pixels(1, 3, 24, 24)})
    assert record.images == []
    assert record.notes == []


def test_a_tower_of_another_length_has_none() -> None:
    """Whatever makes the sequence another than the configuration says."""

    model = TOWERS["vit"]()[0].eval()
    own = model.embeddings.forward

    def longer(*inputs: Any, **options: Any) -> Tensor:
        found = own(*inputs, **options)
        return torch.cat((found, found[:, :1]), 1)

    model.embeddings.forward = longer
    assert seen(model, {"pixel_values": pixels(1, 3, 24, 24)}).images == []


@pytest.mark.parametrize("given", [[], [Image(3, 3, slice(1, 10), name="mine")]])
def test_images_that_are_given_are_all(given: list[Image]) -> None:
    model = TOWERS["vit"]()[0].eval()
    assert seen(model, {"pixel_values": pixels(1, 3, 24, 24)}, images=given).images == given


def test_a_given_image_of_no_layer_is_told() -> None:
    model = TOWERS["vit"]()[0].eval()
    with pytest.warns(UserWarning, match=r"watch: images\[0\]: it belongs to no layer of the record"):
        record = seen(model, {"pixel_values": pixels(1, 3, 24, 24)}, images=[Image(1, 20, (0, 20))])
    assert "images[0]: it belongs to no layer" in record.notes[0]
    assert record.images_of(0) == []


# Language models.


def local(model: Any, tower: nn.Module) -> Any:
    """The model, whose tower hands on each patch by itself: what its attention gives is 0."""
    for name, parameter in tower.named_parameters():
        if name.split(".")[-2] in ("out_proj", "proj") and "attn" in name:
            nn.init.zeros_(parameter)
    return model.eval()


def llava(strategy: str = "default") -> Model:
    tower = SIZES | {"model_type": "clip_vision_model", "image_size": 24, "patch_size": 8}
    config = transformers.LlavaConfig(
        vision_config=tower, text_config=TEXT | {"model_type": "llama"},
        image_token_index=IMAGE, vision_feature_select_strategy=strategy,
    )  # fmt: skip
    model = transformers.LlavaForConditionalGeneration(config)
    per_image = [IMAGE] * (9 if strategy == "default" else 10)
    ids = torch.tensor([[1, *per_image, 5, *per_image, 6], [0, 7, 8, *per_image, *range(10, 10 + len(per_image))]])
    return local(model, model.model.vision_tower), {"input_ids": ids, "pixel_values": pixels(3, 3, 24, 24)}


def packed(pictures: list[Tensor]) -> Tensor:
    """Frames [times, 3, height, width], patch by patch as Qwen-VL takes them."""
    rows = []
    for frames in pictures:
        for frame in frames.split(TIMES):
            grid = [size // PATCH for size in frame.shape[-2:]]
            for top in range(0, grid[0], MERGE):
                for left in range(0, grid[1], MERGE):
                    for row in (top, top + 1):
                        for column in (left, left + 1):
                            high, wide = row * PATCH, column * PATCH
                            patch = frame[:, :, high : high + PATCH, wide : wide + PATCH]  # [times, 3, 4, 4]
                            rows.append(patch.transpose(0, 1).flatten())
    return torch.stack(rows)


ROPE = {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 10000.0}
QWEN_TOWER = {
    "depth": 2,
    "num_heads": 4,
    "patch_size": PATCH,
    "spatial_merge_size": MERGE,
    "temporal_patch_size": TIMES,
}
QWEN_IDS = {
    "image_token_id": IMAGE, "video_token_id": VIDEO, "vision_start_token_id": BEGIN, "vision_end_token_id": END,
}  # fmt: skip


def qwen(version: str) -> Any:
    kind = {"2": "Qwen2VL", "2.5": "Qwen2_5_VL", "3": "Qwen3VL"}[version]
    text = TEXT | {"rope_parameters": ROPE | ({"mrope_interleaved": True} if version == "3" else {})}
    if version == "3":
        text |= {"head_dim": 8}
    own = {
        "2": {"embed_dim": 32, "hidden_size": 32, "mlp_ratio": 1},
        "2.5": {"hidden_size": 32, "out_hidden_size": 32, "intermediate_size": 32, "window_size": 16,
                "fullatt_block_indexes": [1]},
        "3": {"hidden_size": 32, "out_hidden_size": 32, "intermediate_size": 32, "deepstack_visual_indexes": [0],
              "num_position_embeddings": 16},
    }[version]  # fmt: skip
    config = getattr(transformers, f"{kind}Config")(text_config=text, vision_config=QWEN_TOWER | own, **QWEN_IDS)
    model = getattr(transformers, f"{kind}ForConditionalGeneration")(config)
    model.generation_config.bos_token_id, model.generation_config.eos_token_id = 1, 2
    return local(model, model.model.visual)


PICTURES = [pixels(1, 3, 16, 24, seed=1), pixels(1, 3, 24, 16, seed=2), pixels(1, 3, 8, 8, seed=3)]


def shown_to_qwen(pictures: list[Tensor]) -> dict[str, Tensor]:
    """Three pictures in two sequences, the second begins with padding."""
    counts = [one.shape[-2] * one.shape[-1] // (PATCH * MERGE) ** 2 for one in pictures]
    runs = [[BEGIN, *[IMAGE] * count, END] for count in counts]
    first, second = [1, *runs[0], 5, *runs[1], 6], [7, *runs[2], 8]
    ids = torch.tensor([first, [0] * (len(first) - len(second)) + second])
    return {
        "input_ids": ids,
        "attention_mask": (ids != 0).long(),
        "mm_token_type_ids": (ids == IMAGE).int(),
        "pixel_values": packed([one.expand(TIMES, -1, -1, -1) for one in pictures]),
        "image_grid_thw": torch.tensor([[1, one.shape[-2] // PATCH, one.shape[-1] // PATCH] for one in pictures]),
    }


def with_a_spot(pictures: list[Tensor], number: int, row: int, column: int) -> list[Tensor]:
    other = [one.clone() for one in pictures]
    other[number][..., row, column] = 1.5
    return other


@pytest.mark.sampled
@pytest.mark.parametrize("version", ["2", "2.5", "3"])
@pytest.mark.parametrize("spot", [(0, 7, 21), (1, 18, 9), (1, 5, 2), (2, 6, 5)])
def test_qwen_vl(version: str, spot: tuple[int, int, int]) -> None:
    model = qwen(version)
    record, changed = (seen(model, shown_to_qwen(pictures)) for pictures in (PICTURES, with_a_spot(PICTURES, *spot)))
    assert {name for image in record.images for name in image.layers} == set(record)
    assert_changes_where_pictures_do(record, changed, "visual.blocks.0")
    assert_changes_where_pictures_do(record, changed, "language_model.layers.0")
    assert [(i.name, i.rows, i.columns, i.sequence) for i in record.images_of(-1) + record.images_of(-1, 1)] == [
        ("image 0", 2, 3, 0), ("image 1", 3, 2, 0), ("image 2", 1, 1, 1)
    ]  # fmt: skip


@pytest.mark.parametrize("version", ["2", "2.5", "3"])
def test_qwen_vl_while_it_generates(version: str) -> None:
    model, inputs = qwen(version), shown_to_qwen(PICTURES)
    whole = seen(model, inputs)
    with torch.no_grad(), pellucid.watch(model, keep=True) as record:
        generated = model.generate(**inputs, **BEAMS)
    beams = [record.images_of(-1, sequence) for sequence in range(4)]
    of_one = [[replace(image, sequence=0, name="") for image in images] for images in beams]
    expected = [[replace(image, sequence=0, name="") for image in whole.images_of(-1, n)] for n in (0, 1)]
    assert of_one == [expected[0], expected[0], expected[1], expected[1]]
    best = record.of_beams(generated)
    assert [len(best.images_of(-1, sequence)) for sequence in (0, 1)] == [2, 1]
    assert [image.patches.tolist() for image in best.images_of(-1)] == [i.patches.tolist() for i in whole.images_of(-1)]
    tower = best.layers[0]
    assert best[tower].q_len == record[tower].q_len
    assert best.images_of(tower) == record.images_of(tower)


@pytest.mark.parametrize("version", ["2", "2.5"])
def test_a_film_beside_a_picture(version: str) -> None:
    model = qwen(version)
    film, still = pixels(4, 3, 16, 16, seed=4), PICTURES[0]
    ids = torch.tensor([[BEGIN, *[VIDEO] * 8, END, 3, BEGIN, *[IMAGE] * 6, END]])
    films = [film, film.clone()]
    films[1][2, :, 9, 13] = 1.5  # in the second frame's first time
    record, changed = (
        seen(model, {
            "input_ids": ids,
            "mm_token_type_ids": (ids == IMAGE).int() + 2 * (ids == VIDEO).int(),
            "pixel_values": packed([still.expand(TIMES, -1, -1, -1)]),
            "image_grid_thw": torch.tensor([[1, 4, 6]]),
            "pixel_values_videos": packed([one]),
            "video_grid_thw": torch.tensor([[2, 4, 4]]),
        }) for one in films
    )  # fmt: skip
    assert_changes_where_pictures_do(record, changed, "visual.blocks.0")
    assert_changes_where_pictures_do(record, changed, "language_model.layers.0")
    found = {image.name: image.segment for image in record.images_of(-1)}
    assert found == {"image 0": (12, 18), "image 0, frame 0": (1, 5), "image 0, frame 1": (5, 9)}


@pytest.mark.parametrize("strategy", ["default", "full"])
@pytest.mark.parametrize("spot", [(0, 9, 20), (1, 17, 3), (2, 1, 12)])
def test_llava(strategy: str, spot: tuple[int, int, int]) -> None:
    model, inputs = llava(strategy)
    number, row, column = spot
    other = inputs["pixel_values"].clone()
    other[number, :, row, column] = 1.5
    record, changed = seen(model, inputs), seen(model, inputs | {"pixel_values": other})
    assert {name for image in record.images for name in image.layers} == set(record)
    assert_changes_where_pictures_do(record, changed, "encoder.layers.0")
    assert_changes_where_pictures_do(record, changed, "language_model.layers.0")
    assert [len(record.images_of(-1, sequence)) for sequence in (0, 1)] == [2, 1]


def test_llava_while_it_generates() -> None:
    model, inputs = llava()
    inputs = {name: value[:2] for name, value in inputs.items()}
    inputs["input_ids"] = inputs["input_ids"][:1]
    with torch.no_grad(), pellucid.watch(model, keep=True) as record:
        model.generate(**inputs, do_sample=False, max_new_tokens=3)
    assert [image.segment for image in record.images_of(-1)] == [(1, 10), (11, 20)]
    assert record[-1].q_len == 23


def test_a_chat_goes_on_with_another_picture() -> None:
    model, inputs = llava()
    ids, shown = inputs["input_ids"][:1], inputs["pixel_values"]
    cache, last = transformers.DynamicCache(), "model.language_model.layers.1.self_attn"
    with torch.no_grad(), pellucid.watch(model) as record:
        model(ids[:, :11], pixel_values=shown[:1], use_cache=True, **{models.CACHE: cache})
        model(ids[:, 11:], pixel_values=shown[1:2], use_cache=True, **{models.CACHE: cache})
        assert [image.segment for image in record.images_of(last)] == [(1, 10), (11, 20)]
        cache.crop(-12)  # into the first picture, which is no longer whole
        model(torch.full((1, 13), 4), use_cache=True, **{models.CACHE: cache})
        assert record[last].q_len == 22
    assert record.images_of(last) == []


def test_ids_that_do_not_fit_the_pictures_have_none() -> None:
    model, inputs = llava()
    with torch.no_grad(), pellucid.watch(model) as record:
        embedded = model.get_input_embeddings()(inputs["input_ids"])
        model.model.language_model(inputs_embeds=embedded)  # no picture was looked at
    assert record.images == []


def test_what_is_written_on_the_way_and_resumed_has_its_images(tmp_path: Any) -> None:
    model, inputs = llava()
    whole = seen(model, inputs, out=tmp_path / "run.attn")
    opened = pellucid.open_record(tmp_path / "run.attn", verify=True)
    assert whole.images == opened.images
    assert len([*opened.path.glob("pictures-*")]) == 1
    for number in (3, 2):
        (opened.path / f"layer-000{number}.safetensors").unlink()
    seen(model, inputs, out=tmp_path / "run.attn", resume=True)
    again = pellucid.open_record(tmp_path / "run.attn", verify=True)
    assert again.images == opened.images
    for one, other in zip(again.images, opened.images, strict=True):
        assert torch.equal(one.picture, other.picture)


def test_a_record_is_pickled_with_what_was_seen_and_heard() -> None:
    model, inputs = models.whisper()
    record = seen(model.eval(), inputs)
    assert pickle.loads(pickle.dumps(record)).frames == record.frames
    record = seen(TOWERS["vit"]()[0].eval(), {"pixel_values": pixels(1, 3, 24, 24)})
    assert pickle.loads(pickle.dumps(record)).images == record.images


# Sound.


def test_whisper() -> None:
    model, inputs = models.whisper()
    record = seen(model.eval(), inputs)
    of = {(name, axis): record.frames_of(name, axis, 1) for name in record for axis in ("queries", "keys")}
    heard = {place for place, frames in of.items() if frames}
    assert heard == {
        (name, axis) for name, axis in of if ".encoder." in name or (record[name].role == "cross" and axis == "keys")
    }
    assert {frames for place in heard for frames in of[place]} == set(record.frames)
    (frames,) = record.frames
    assert (frames.segment, frames.seconds(5)) == ((0, 20), pytest.approx(0.1))


def test_whisper_while_it_generates() -> None:
    model, inputs = models.whisper()
    with torch.no_grad(), pellucid.watch(model.eval()) as record:
        model.generate(inputs["input_features"], do_sample=False, max_new_tokens=4, num_beams=2)
    crossed = [name for name in record if record[name].role == "cross"]
    assert crossed
    assert all(len(record.frames_of(name, "keys", sequence)) == 1 for name in crossed for sequence in range(4))


@pytest.mark.sampled
@pytest.mark.parametrize(
    "kind", ["Wav2Vec2", "Hubert", "WavLM", "UniSpeech", "UniSpeechSat", "Data2VecAudio", "Wav2Vec2Conformer"]
)
def test_models_of_waves(kind: str) -> None:
    own = {"conv_dim": (8, 8), "conv_kernel": (10, 3), "conv_stride": (5, 2), "num_feat_extract_layers": 2}
    config = getattr(transformers, f"{kind}Config")(
        **SIZES, **own, num_conv_pos_embeddings=4, num_conv_pos_embedding_groups=2, vocab_size=20
    )
    model = getattr(transformers, f"{kind}Model")(config).eval()
    record = seen(model, {"input_values": torch.randn(2, 400)})
    frames = {frames for name in record for frames in record.frames_of(name, "keys", 1)}
    assert len(frames) == 1
    assert frames.pop().seconds(1) == pytest.approx(10 / 16_000)
    assert all(record.frames_of(name, "queries") for name in record)
    assert any("16,000 samples a second are assumed" in note for note in record.notes)


def test_frames_that_are_given_are_all() -> None:
    model, inputs = models.whisper()
    given = [Frames(seconds_per_key=0.5, source=True)]
    record = seen(model.eval(), inputs, frames=given)
    assert record.frames == given
    assert record.frames_of(0, "keys") == given
