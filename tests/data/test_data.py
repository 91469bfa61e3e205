import gzip
import os
import shutil
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, TiffImagePlugin

from harness.app.compose import compose_config
from harness.data import sources
from harness.data.augment import EpochAugmentation, RowCrops
from harness.data.dataset import load_dataset
from harness.data.images import ImageFiles, stratified
from harness.data.loader import Loader
from harness.errors import UserError
from harness.stages.identity import describe, settings
from harness.training.devices import set_up


def dataset(*overrides):
    config, _ = compose_config(list(overrides))
    return config, load_dataset(config.data)


def test_without_a_split_seed_the_run_s_seed_chooses_the_validation_images():
    config, _ = compose_config(["data=digits", "data.split_seed=null", "seed=3"])
    assert load_dataset(config.images).fingerprint == dataset("data=digits", "data.split_seed=3")[1].fingerprint
    assert settings(config)["data.split_seed"] is None


@given(
    labels=st.lists(st.integers(0, 4), min_size=2, max_size=60), fraction=st.floats(0.0, 1.0), seed=st.integers(0, 9)
)
def test_stratified_choice_has_the_size_asked_for_and_each_class_in_proportion(labels, fraction, seed):
    labels = torch.tensor(labels)
    count = round(len(labels) * fraction)
    mask = stratified(labels, count, torch.Generator().manual_seed(seed))
    assert int(mask.sum()) == count
    for label in labels.unique():
        share = int((labels == label).sum()) * count / len(labels)
        assert abs(int((labels[mask] == label).sum()) - share) < 1


def test_digits_parts_are_disjoint_complete_and_the_same_for_every_run_seed():
    _, parts = dataset("data=digits", "seed=5")
    assert [len(part) for part in (parts.train, parts.val, parts.test)] == [1150, 288, 359]
    assert sum(len(part) for part in (parts.train, parts.val, parts.test)) == 1797
    assert dataset("data=digits", "seed=6")[1].fingerprint == parts.fingerprint
    assert dataset("data=digits", "data.split_seed=1")[1].fingerprint != parts.fingerprint
    assert (parts.train.images.pixels.dtype, parts.train.images.pixels.max(), parts.shape) == (
        torch.uint8,
        255,
        (1, 8, 8),
    )


def test_crops_are_shifts_of_the_zero_padded_image_and_flips_are_mirrored():
    images = torch.arange(1, 10, dtype=torch.uint8).view(1, 1, 3, 3)
    images = images.view(1, 3, 3, 1).repeat(2, 1, 1, 1)
    choice = EpochAugmentation(1, torch.tensor([0, 1]), torch.tensor([2, 1]), torch.tensor([False, True]))
    shifted, mirrored = RowCrops(choice, 3, 3, 1)(images, slice(0, 2)).squeeze(-1)
    assert shifted.tolist() == [[0, 0, 0], [2, 3, 0], [5, 6, 0]]
    assert mirrored.tolist() == [[3, 2, 1], [6, 5, 4], [9, 8, 7]]


@pytest.mark.parametrize("storage", ["device", "host"])
def test_cutout_blanks_a_square_and_changes_nothing_else(storage):
    def batches(*overrides):
        config, parts = dataset("data=digits", "data.train_size=200", f"data.storage={storage}", *overrides)
        return torch.cat([images for images, _ in Loader(parts, config, torch.device("cpu")).train(3)])

    whole, cut = batches(), batches("data.cutout=3")
    corners = set()
    for before, after in zip(whole.squeeze(1), cut.squeeze(1), strict=True):
        rows, columns = (before != after).nonzero().unbind(1)
        top, left = int(rows.min()), int(columns.min())
        assert after[rows, columns].count_nonzero() == 0
        assert len(rows) == len(rows.unique()) * len(columns.unique())
        assert len(rows.unique()) <= 3
        assert len(columns.unique()) <= 3
        corners.add((top, left))
    assert len(corners) > 20
    with pytest.raises(UserError, match=r"data.cutout=8: must be below 8, the images' shorter side in pixels"):
        batches("data.cutout=8")


OWN = """
class Brighter:
    def __init__(self, by):
        self.by = by

    def draw(self, count, shape, rng, send):
        import torch

        added = send(self.by * torch.rand(count, generator=rng))

        def brighten(images, targets, chosen):
            return images + added[chosen, None, None, None], targets

        return brighten
"""


def test_an_augmentation_of_one_s_own_takes_a_class_and_changes_the_identity(tmp_path, monkeypatch):
    (tmp_path / "my_augmentations.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)

    def batches(*overrides):
        config, parts = dataset("data=digits", "data.train_size=200", "allow=[my_augmentations]", *overrides)
        epoch = torch.cat([images for images, _ in Loader(parts, config, torch.device("cpu")).train(3)])
        return epoch, describe(config, parts.facts, set_up(config))

    own = "+augment.brighter={_target_: my_augmentations.Brighter, by: %s}"
    (plain, before), (brighter, after) = batches(), batches(own % 2.0)
    added = (brighter - plain).flatten(1)
    assert torch.allclose(added, added[:, :1].expand_as(added), atol=1e-6)
    assert 0 <= added.min() < 0.1 < 1.9 < added.max() <= 2
    assert torch.equal(batches(own % 2.0)[0], brighter)
    changed = {name for name in after if after[name] != before.get(name)}
    assert changed == {"augment.brighter._target_", "augment.brighter.by", "environment.augment_code"}
    with pytest.raises(UserError, match=r"augment.brighter.buy=1: Brighter has no such setting \(did you mean by\?\)"):
        batches("+augment.brighter={_target_: my_augmentations.Brighter, buy: 1}")
    with pytest.raises(UserError, match=r"brighter._target_=harness.data.images.Split: must be the import path of a"):
        batches("+augment.brighter={_target_: harness.data.images.Split}")


def test_an_epoch_is_every_training_image_once_in_an_order_that_follows_from_seed_and_epoch():
    def epoch(seed, number):
        settings = ("data=digits", "augment=none", "data.train_size=100", "batch_size=32", f"seed={seed}")
        config, parts = dataset(*settings)
        loader = Loader(parts, config, torch.device("cpu"))
        return torch.cat([images for images, _ in loader.train(number)])

    first = epoch(0, 3)
    assert torch.equal(first, epoch(0, 3))
    assert not torch.equal(first, epoch(0, 4))
    assert not torch.equal(first, epoch(1, 3))
    assert torch.equal(first.flatten(1).sort(0).values, epoch(0, 4).flatten(1).sort(0).values)
    assert first.mean().abs() < 1e-5
    assert first.std(correction=0) == pytest.approx(1.0, abs=1e-5)


def test_batches_are_channels_last():
    config, parts = dataset("data=synthetic", "data.images=100", "data.image_size=8", "batch_size=32")
    loader = Loader(parts, config, torch.device("cpu"))
    assert all(images.is_contiguous(memory_format=torch.channels_last) for images, _ in loader.train(0))
    assert all(images.is_contiguous(memory_format=torch.channels_last) for images, _ in loader.evaluation("val"))


def write_idx(path, array):
    header = struct.pack(">HBB", 0, 8, array.ndim) + struct.pack(f">{array.ndim}I", *array.shape)
    content = header + array.tobytes()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


def write_mnist(folder, suffix):
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for part, count in (("train", 40), ("t10k", 20)):
        write_idx(folder / f"{part}-images-idx3-ubyte{suffix}", rng.integers(0, 256, (count, 28, 28), dtype=np.uint8))
        write_idx(folder / f"{part}-labels-idx1-ubyte{suffix}", np.arange(count, dtype=np.uint8) % 10)


@pytest.mark.parametrize(("place", "suffix"), [("", ".gz"), ("FashionMNIST/raw", "")])
def test_fashion_mnist_is_found_under_root_before_any_other_place(tmp_path, place, suffix):
    write_mnist(tmp_path / "files" / place, suffix)
    _, parts = dataset("data=fashion_mnist", f"data.root={tmp_path / 'files'}", "data.val_fraction=0.25")
    assert [len(part) for part in (parts.train, parts.val, parts.test)] == [30, 10, 20]
    assert parts.classes[9] == "Ankle boot"


def test_fashion_mnist_is_found_where_debian_puts_it(tmp_path, monkeypatch):
    write_mnist(tmp_path / "debian", ".gz")
    monkeypatch.setattr(sources, "DEBIAN_FASHION_MNIST", tmp_path / "debian")
    assert len(dataset("data=fashion_mnist", f"data.root={tmp_path}/none")[1].test) == 20


def test_absent_files_are_named_in_two_lines_with_what_to_do(tmp_path):
    with pytest.raises(UserError) as error:
        dataset("data=mnist", f"data.root={tmp_path}/none", "data.download=false")
    first, second = str(error.value).splitlines()
    assert f"{tmp_path}/none" in first
    assert "data.root=FOLDER" in second


def test_a_damaged_file_is_named(tmp_path):
    write_mnist(tmp_path / "files", ".gz")
    damaged = tmp_path / "files" / "train-images-idx3-ubyte.gz"
    damaged.write_bytes(damaged.read_bytes()[:-100])
    with pytest.raises(UserError, match=f"{damaged}: damaged"):
        dataset("data=fashion_mnist", f"data.root={tmp_path}/files")


def write_pictures(root, classes=("cat", "a dog"), mode="RGB", size=(20, 12)):
    for part, count in (("train", 6), ("test", 2)):
        for value, name in enumerate(classes):
            folder = root / part / name
            folder.mkdir(parents=True)
            for number in range(count):
                Image.new(mode, size, (value * 200,) * len(mode)).save(folder / f"{number}.png")


def pictures(root):
    return dataset("data=image_folder", f"data.root={root}", "data.val_fraction=0.2")[1]


@pytest.mark.parametrize("channels", [1, 3])
def test_image_folder_is_cut_square_scaled_and_labelled_by_folder(tmp_path, channels):
    write_pictures(tmp_path)
    _, parts = dataset(
        "data=image_folder",
        f"data.root={tmp_path}",
        "data.image_size=8",
        f"data.channels={channels}",
        "data.val_fraction=0.2",
    )
    assert parts.classes == ("a dog", "cat")
    assert parts.shape == (channels, 8, 8)
    assert [int(image.max()) for image in parts.test.images.pixels] == [200, 200, 0, 0]
    assert parts.test.labels.tolist() == [0, 0, 1, 1]


def test_image_folder_names_the_file_it_cannot_read(tmp_path):
    write_pictures(tmp_path)
    (tmp_path / "train" / "cat" / "bad.png").write_bytes(b"no picture")
    with pytest.raises(UserError, match=r"bad.png: cannot be read as an image"):
        dataset("data=image_folder", f"data.root={tmp_path}")


def test_each_real_folder_is_read_once_however_many_links_lead_there(tmp_path):
    write_pictures(tmp_path, "ab")
    before = pictures(tmp_path).fingerprint
    (tmp_path / "train" / "a" / "again").symlink_to(tmp_path / "train" / "a")
    (tmp_path / "train" / "a" / "up").symlink_to(tmp_path / "train" / "a" / "again")
    assert pictures(tmp_path).fingerprint == before
    shutil.move(tmp_path / "train" / "b", tmp_path / "elsewhere")
    (tmp_path / "train" / "b").symlink_to(tmp_path / "elsewhere")
    assert pictures(tmp_path).fingerprint == before


@pytest.mark.parametrize("place", ["train/c", "test/a/more"])
def test_a_folder_of_two_classes_or_of_train_and_test_is_refused(tmp_path, place):
    write_pictures(tmp_path, "ab")
    (tmp_path / place).symlink_to(tmp_path / "train" / "a")
    with pytest.raises(UserError, match=rf"{place}: is the same folder as .*train/a; must be of one class"):
        pictures(tmp_path)


def test_a_pipe_named_as_an_image_is_refused_not_waited_for(tmp_path):
    write_pictures(tmp_path, "ab")
    os.mkfifo(tmp_path / "test" / "b" / "x.jpg")
    with pytest.raises(UserError, match=r"b/x\.jpg: is named as an image and is no file"):
        pictures(tmp_path)
    (tmp_path / "test" / "b" / "x.jpg").unlink()
    (tmp_path / "test" / "b" / "x.jpg").mkdir()
    pictures(tmp_path)


def test_a_program_named_as_an_image_is_not_run(tmp_path, monkeypatch):
    write_pictures(tmp_path, "ab")
    eps = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 20 20\n%%EndComments\n0 0 moveto\n%%EOF\n"
    (tmp_path / "train" / "a" / "x.jpg").write_bytes(eps)
    monkeypatch.setattr("PIL.EpsImagePlugin.Ghostscript", lambda *_, **__: pytest.fail("Ghostscript is run"))
    with pytest.raises(UserError, match=r"a/x\.jpg: cannot be read as an image \(it is none of JPEG, .*PNG"):
        pictures(tmp_path)


def test_a_file_with_too_many_pixels_is_refused_before_it_is_decoded(tmp_path):
    write_pictures(tmp_path, "ab")
    bomb = tmp_path / "train" / "a" / "bomb.png"
    Image.new("L", (300, 200)).save(bomb)
    content = bytearray(bomb.read_bytes())
    content[16:24] = struct.pack(">II", 60_000, 50_000)  # its header alone says so
    content[29:33] = struct.pack(">I", zlib.crc32(content[12:29]))
    bomb.write_bytes(content)
    with pytest.raises(UserError, match=r"data\.max_pixels=200000000: .*bomb\.png has 3000000000 pixels"):
        pictures(tmp_path)


def test_a_small_tiff_with_a_huge_tile_is_refused(tmp_path):
    write_pictures(tmp_path, "ab")
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    tags[65000], tags[65001] = 40_000, 40_000
    Image.new("L", (20, 20)).save(path := tmp_path / "train" / "a" / "x.tif", tiffinfo=tags)
    content = path.read_bytes()
    for own, of_tiles in ((65000, 322), (65001, 323)):  # which Pillow does not write
        content = content.replace(struct.pack("<H", own), struct.pack("<H", of_tiles))
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"data\.max_pixels=200000000: .*x\.tif has 1600000000 pixels"):
        pictures(tmp_path)


@pytest.mark.parametrize("name", ["x.png", "x.tif", "big.tif", "x.pgm", "ten_bits.pgm", "x.jp2.png"])
@pytest.mark.parametrize("channels", [1, 3])
def test_grey_of_16_bits_keeps_its_upper_8_and_is_not_cut_off_at_255(tmp_path, name, channels):
    (tmp_path / "train" / "a").mkdir(parents=True)
    grey = np.linspace(0, 1023 if name == "ten_bits.pgm" else 65535, 1024).round().astype(np.uint16).reshape(32, 32)
    path = tmp_path / "train" / "a" / name
    if name.endswith(".pgm"):
        path.write_bytes(b"P5 32 32 %d\n" % grey.max() + grey.astype(">u2").tobytes())
    else:
        image = Image.fromarray(grey)
        kind = "JPEG2000" if name == "x.jp2.png" else None
        image.save(path, kind, **({"big_tiff": True} if name == "big.tif" else {}))
    files, _ = ImageFiles.find([str(path)], 32, channels, 1, 10_000)
    pixels = files.decoded().pixels[0].int()
    expected = torch.from_numpy((grey // (4 if name == "ten_bits.pgm" else 256)).astype(np.int32))
    assert (pixels - expected[:, :, None]).abs().max() <= (1 if name == "ten_bits.pgm" else 0)


@pytest.mark.parametrize("kind", [np.float32, np.int32])
def test_grey_of_which_nothing_says_what_is_white_is_refused(tmp_path, kind):
    write_pictures(tmp_path, "ab")
    Image.fromarray(np.ones((20, 20), kind)).save(tmp_path / "train" / "a" / "x.tif")
    with pytest.raises(UserError, match=r"a/x\.tif: cannot be read as an image \(of its pixels, of Pillow's mode [IF]"):
        pictures(tmp_path)


def test_a_class_whose_name_is_no_utf_8_is_refused(tmp_path):
    write_pictures(tmp_path, ["a", "b\udcff"])
    with pytest.raises(UserError, match="train/b\udcff: is a class named by bytes that are no UTF-8; rename it"):
        pictures(tmp_path)


def test_pictures_that_are_left_out_are_told_of(tmp_path, caplog):
    write_pictures(tmp_path, "ab")
    (tmp_path / "valid" / "a").mkdir(parents=True)
    for name in ("x.gif", "y.JFIF", ".hidden.gif", "labels.txt"):
        (tmp_path / "train" / "a" / name).touch()
    pictures(tmp_path)
    assert "2 pictures are left out for the name's ending, as " in caplog.text
    assert "train/a/x.gif; read are .jpg, " in caplog.text
    assert f"{tmp_path / 'valid'} is not read: validation images are held out of train/" in caplog.text


def test_a_webp_that_pillow_makes_room_for_as_it_opens_it_is_refused_and_others_are_not(tmp_path):
    write_pictures(tmp_path, "ab")
    Image.new("RGB", (50, 50)).save(tmp_path / "train" / "a" / "x.webp")
    with pytest.raises(UserError, match=r"data\.max_pixels=1000: .*x\.webp has 2500 pixels"):
        dataset("data=image_folder", f"data.root={tmp_path}", "data.max_pixels=1000")
    Image.new("L", (50, 50)).save(tmp_path / "mine.png")
    Image.open(tmp_path / "mine.png").load()  # what others of this process read is theirs to decide on


@pytest.mark.parametrize("place", ["train", "train/a", "train/a/more"])
def test_a_folder_that_cannot_be_looked_through_is_refused_not_left_out(tmp_path, monkeypatch, place):
    write_pictures(tmp_path, "ab")
    (tmp_path / "train" / "a" / "more").mkdir()
    original = os.scandir

    def scandir(path):
        if Path(path) == tmp_path / place:
            raise PermissionError(13, "Permission denied", str(path))
        return original(path)

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(UserError, match=rf"{place}: cannot be looked through \(Permission denied\)"):
        pictures(tmp_path)


def test_a_class_that_is_a_link_to_itself_is_refused_and_such_a_link_below_is_not(tmp_path):
    write_pictures(tmp_path, "ab")
    before = pictures(tmp_path).fingerprint
    (tmp_path / "train" / "a" / "loop").symlink_to("loop")
    assert pictures(tmp_path).fingerprint == before
    (tmp_path / "train" / "loop").symlink_to("loop")
    with pytest.raises(UserError, match=r"train/loop: cannot be looked through \(Too many levels of symbolic links"):
        pictures(tmp_path)


def test_a_file_under_several_names_is_counted_again_and_told_of(tmp_path, caplog):
    write_pictures(tmp_path, "ab")
    pictures(tmp_path)
    assert not caplog.text
    (tmp_path / "train" / "a" / "x.png").symlink_to(tmp_path / "test" / "b" / "1.png")
    (tmp_path / "train" / "b" / "x.png").hardlink_to(tmp_path / "train" / "b" / "1.png")
    parts = pictures(tmp_path)
    assert len(parts.train) + len(parts.val) == 14
    assert "2 files are counted again under other names, as " in caplog.text


def test_image_folder_with_different_classes_in_test_is_refused(tmp_path):
    write_pictures(tmp_path)
    (tmp_path / "test" / "cat").rename(tmp_path / "test" / "bird")
    with pytest.raises(UserError, match=r"only in one: \['bird', 'cat'\]"):
        dataset("data=image_folder", f"data.root={tmp_path}")


def test_more_training_images_than_there_are_is_refused():
    with pytest.raises(UserError, match=r"data\.train_size=5000: must be at most 1150"):
        dataset("data=digits", "data.train_size=5000")
