"""The same batches wherever the images lie; what happens when files go away; what a process keeps."""

import json
import logging
import os
import threading

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from support.small_runs import read_rows, untimed

from harness.app.compose import compose_config
from harness.data import dataset as datasets
from harness.data import images, sources, storage
from harness.data.augment import EpochAugmentation, PixelCrops, RowCrops, padded
from harness.data.dataset import load_dataset
from harness.data.feeds import StreamedPart, read_ahead
from harness.data.fingerprint import examine
from harness.data.images import ImageFiles, MemoryImages, Split
from harness.data.loader import Loader
from harness.errors import UserError
from harness.files import read_sealed, write_sealed

CPU = torch.device("cpu")
PLACES = ("device", "host", "disk")


@pytest.fixture(autouse=True)
def nothing_kept(monkeypatch, tmp_path):
    monkeypatch.setattr(datasets, "_kept", None)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def all_old(monkeypatch):
    """Files that the test has just written count as old."""
    monkeypatch.setattr(images, "_SETTLED_NS", -(10**15))


@pytest.fixture
def folder(tmp_path):
    """A folder of 3 x 14 training and 3 x 4 test images of random pixels, of many sizes and both kinds of file."""
    rng = np.random.default_rng(0)
    for part, count in (("train", 14), ("test", 4)):
        for label in ("a", "b", "c"):
            place = tmp_path / "images" / part / label
            place.mkdir(parents=True)
            for number in range(count):
                pixels = rng.integers(0, 256, (8 + number % 3, 9, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(place / f"{number}.{'png' if number % 2 else 'jpg'}")
    return tmp_path / "images"


def settings_of(folder, *overrides):
    return compose_config(
        [
            "data=image_folder", f"data.root={folder}", "data.image_size=8", "data.crop_padding=2", "batch_size=5",
            *overrides,
        ]
    )[0]  # fmt: skip


def loaded(folder, *overrides):
    config = settings_of(folder, *overrides)
    parts = load_dataset(config.data)
    return parts, Loader(parts, config, CPU)


def passes(loader):
    return [
        list(loader.train(0)),
        list(loader.train(1)),
        list(loader.evaluation("val")),
        list(loader.evaluation("test")),
    ]


def assert_same_bits(first, second):
    for ours, theirs in zip(first, second, strict=True):
        for one, other in zip(ours, theirs, strict=True):
            assert all(map(torch.equal, one, other))
            assert one[0].is_contiguous(memory_format=torch.channels_last)


def threads():
    return {thread for thread in threading.enumerate() if thread.name.startswith(("read ahead", "decode"))}


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("place", "workers"), [("host", 1), ("disk", 1), ("disk", 3), ("disk", 8), ("device", 3)])
def test_batches_are_bit_equal_whatever_the_storage_and_the_number_of_workers(folder, place, workers, channels):
    parts, loader = loaded(folder, "data.storage=device", "data.workers=1", f"data.channels={channels}")
    others, other = loaded(folder, f"data.storage={place}", f"data.workers={workers}", f"data.channels={channels}")
    assert isinstance(others.train.images, ImageFiles) == (place == "disk")
    assert isinstance(other._train, StreamedPart) == (place != "device")
    assert (others.fingerprint, others.mean, others.std) == (parts.fingerprint, parts.mean, parts.std)
    assert_same_bits(passes(other), passes(loader))
    assert not threads()


@given(
    size=st.tuples(st.integers(1, 6), st.integers(1, 6), st.integers(1, 4)), padding=st.integers(0, 3),
    flip=st.booleans(), seed=st.integers(0, 99), batch=st.integers(1, 8),
)  # fmt: skip
def test_both_ways_to_crop_and_flip_do_what_doing_it_to_each_image_does(size, padding, flip, seed, batch):
    rng = torch.Generator().manual_seed(seed)
    (height, width, channels), count = size, 7
    images = torch.randint(0, 256, (count, height, width, channels), dtype=torch.uint8, generator=rng)
    choices = EpochAugmentation.draw(count, padding, flip, rng)
    wanted = []
    for number, image in enumerate(padded(images, padding)):
        row, column = int(choices.rows[number]), int(choices.columns[number])
        crop = image[row : row + height, column : column + width]
        wanted.append(crop.flip(1) if flip and choices.flips[number] else crop)
    by_rows = RowCrops(choices, height, width, channels)
    by_pixels = PixelCrops(choices, torch.arange(count), height, width, lambda tensor: tensor)
    for start in range(0, count, batch):
        chosen = slice(start, start + batch)
        expected = torch.stack(wanted[chosen])
        assert torch.equal(by_rows(images[chosen], chosen), expected)
        assert torch.equal(by_pixels(padded(images, padding), chosen), expected)


@pytest.mark.parametrize("place", PLACES)
def test_the_way_of_gpus_gives_the_batches_of_the_cpu(folder, place, monkeypatch):
    _, loader = loaded(folder, f"data.storage={place}")
    by_cpu = passes(loader)
    monkeypatch.setattr(loader, "_cropped_by_cpu", loader._cropped_by_gpu)
    if place == "device":
        loader._train = padded(loader._train.images, 2)
    assert_same_bits([list(loader.train(0)), list(loader.train(1))], by_cpu[:2])


@pytest.mark.draws
def test_runs_from_every_storage_have_the_same_identity_and_end_with_the_same_weights(folder, small_run, tmp_path):
    def train(place):
        overrides = ["data=image_folder", f"data.root={folder}", "data.image_size=8", "batch_size=8", "epochs=2"]
        out = tmp_path / place
        summary = small_run(out, *overrides, f"data.storage={place}", "data.train_size=null", "scheduler=constant")
        return (
            summary["weights_sha256"],
            json.loads((out / "run.json").read_text())["identity"],
            untimed(read_rows(out)),
        )

    assert train("device") == train("host") == train("disk")


def test_a_run_may_be_continued_from_another_storage(small_run, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    alone = small_run(tmp_path / "alone", "data.storage=host")
    small_run(tmp_path / "run", "epochs=2", "scheduler=constant")
    resumed = small_run(tmp_path / "run", "data.storage=host", resume=True)
    assert resumed["weights_sha256"] == alone["weights_sha256"]
    assert "already completed" not in caplog.text
    assert small_run(tmp_path / "run", "data.storage=device", resume=True) == resumed
    assert "already completed" in caplog.text


@pytest.mark.parametrize("harm", ["gone", "cut", "replaced"])
def test_a_file_that_is_gone_or_damaged_ends_the_epoch_with_its_name(folder, harm):
    parts, loader = loaded(folder, "data.storage=disk", "data.workers=2", "data.val_fraction=0.5", "batch_size=1")
    batches = loader.train(0)
    next(batches)
    # The order of the epoch is the data set's secret; every file but those that may be read by now is harmed.
    for path in map(folder.joinpath, parts.train.images.paths):
        content = path.read_bytes()
        path.unlink()
        if harm == "cut":
            path.write_bytes(content[: len(content) // 2])
        if harm == "replaced":
            Image.new("RGB", (8, 8), 7).save(path)
    with pytest.raises(UserError, match=r"train/[abc]/\d+\.(png|jpg): (cannot be read as an image|has changed since)"):
        list(batches)
    assert not threads()


@pytest.mark.parametrize("place", ["host", "disk"])
def test_leaving_an_epoch_in_the_middle_ends_its_threads(folder, place):
    _, loader = loaded(folder, f"data.storage={place}", "data.workers=2", "batch_size=2")
    batches = loader.train(0)
    next(batches)
    assert threads()
    batches.close()
    assert not threads()

    def fail():
        for _ in loader.evaluation("val"):
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert not threads()


def test_images_are_read_only_a_few_batches_ahead():
    begun = []
    batches = (begun.append(index) or index for index in torch.arange(40).split(2))
    images = torch.arange(40, dtype=torch.uint8).view(40, 1, 1, 1)
    found = []
    for number, buffer in enumerate(read_ahead(MemoryImages(images), batches, 2, pinned=False)):
        assert len(begun) == min(20, number + 5)
        found.append(buffer.images.flatten().tolist())
    assert found == torch.arange(40).view(20, 2).tolist()


def test_mean_and_deviation_are_those_of_the_training_pixels(folder):
    parts, _ = loaded(folder)
    pixels = parts.train.images.pixels.permute(3, 0, 1, 2).flatten(1).double()
    assert parts.mean == pytest.approx(pixels.mean(1).tolist(), rel=1e-12)
    assert parts.std == pytest.approx(pixels.std(1, correction=0).tolist(), rel=1e-12)


def test_sums_stay_exact_for_the_brightest_images_and_one_colour_is_not_divided_by_zero():
    white = Split(MemoryImages(torch.full((999, 3, 3, 1), 255, dtype=torch.uint8)), torch.zeros(999, dtype=torch.int64))
    found = examine(white, white, white)
    assert (found.mean, found.std) == ((255.0,), (1e-3,))


def test_disk_is_refused_for_images_that_are_not_in_a_folder():
    with pytest.raises(UserError, match=r"data\.storage=disk: must be auto, device or host, or disk with data=image_"):
        compose_config(["data=digits", "data.storage=disk"])


def test_auto_leaves_images_on_the_disk_that_would_take_half_of_the_free_memory(folder, monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    needed = 3 * 18 * 8 * 8 * 3
    monkeypatch.setattr(storage, "free_memory", lambda: 2 * needed - 1)
    assert isinstance(load_dataset(settings_of(folder).data).train.images, ImageFiles)
    assert "data.storage=auto: disk, since 0.0 MB of decoded images are more than half" in caplog.text
    monkeypatch.setattr(storage, "free_memory", lambda: 2 * needed)
    assert isinstance(load_dataset(settings_of(folder, "data.flip=false").data).train.images, MemoryImages)


@pytest.mark.parametrize("place", ["device", "host"])
def test_images_that_do_not_fit_into_memory_are_refused_before_they_are_read(folder, monkeypatch, place):
    monkeypatch.setattr(storage, "free_memory", lambda: 1000)
    with pytest.raises(UserError, match=r"more than the 0\.0 MB of free memory; must be .*data\.storage=disk"):
        load_dataset(settings_of(folder, f"data.storage={place}").data)
    with pytest.raises(UserError, match=r"must be fewer or smaller \(data\.images, "):
        load_dataset(compose_config(["data=synthetic", f"data.storage={place}"])[0].data)


def test_auto_is_host_for_images_that_would_take_half_of_the_gpu(monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    config = compose_config(["data=digits"])[0].data
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (3_000_000_000, 8_000_000_000))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 1_500_000_000)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 500_000_000)
    cuda = torch.device("cuda", 0)
    assert storage.belongs_on_device(config, 2_000_000_000, cuda)
    assert not caplog.text
    assert not storage.belongs_on_device(config, 2_000_000_001, cuda)
    assert "data.storage=auto: host, since 2.0 GB of images are more than half of the 4.0 GB" in caplog.text
    assert storage.belongs_on_device(config, 10**15, CPU)


def test_free_memory_is_the_lesser_of_the_machine_s_and_the_container_s(tmp_path):
    (tmp_path / "meminfo").write_text("MemTotal: 9000 kB\nMemAvailable: 7000 kB\n")
    assert storage.free_memory(tmp_path, tmp_path) == 7000 * 1024
    (tmp_path / "memory.max").write_text("max\n")
    assert storage.free_memory(tmp_path, tmp_path) == 7000 * 1024
    for name, content in (("max", "5000"), ("current", "3000"), ("stat", "anon 5\ninactive_file 700\n")):
        (tmp_path / f"memory.{name}").write_text(content)
    assert storage.free_memory(tmp_path, tmp_path) == 2700


@pytest.mark.parametrize("place", PLACES)
def test_a_process_reads_the_same_data_once_and_notices_when_a_file_changes(folder, all_old, place):
    first = load_dataset(settings_of(folder, f"data.storage={place}").data)
    assert load_dataset(settings_of(folder, f"data.storage={place}").data) is first
    assert load_dataset(settings_of(folder).data) is first
    Image.new("RGB", (8, 8), 7).save(folder / "train" / "a" / "1.png")
    changed = load_dataset(settings_of(folder, f"data.storage={place}").data)
    assert changed.fingerprint != first.fingerprint
    assert load_dataset(settings_of(folder, "data.split_seed=1").data).fingerprint != changed.fingerprint


def put_in_place(path, value):
    """Another image of the same size and time as whatever image of this helper's is there."""
    modified = path.stat().st_mtime_ns
    Image.new("RGB", (8, 8), value).save(path, "BMP")
    os.utime(path, ns=(modified, modified))


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("is_new_process", [False, True])
def test_an_image_is_noticed_that_took_another_s_place_with_its_size_and_time(
    folder, monkeypatch, all_old, place, is_new_process
):
    put_in_place(path := folder / "train" / "a" / "1.png", 1)
    first = load_dataset(settings_of(folder, f"data.storage={place}").data)
    put_in_place(path, 2)
    if is_new_process:
        monkeypatch.setattr(datasets, "_kept", None)
    assert load_dataset(settings_of(folder, f"data.storage={place}").data).fingerprint != first.fingerprint


def test_files_so_new_that_their_times_say_nothing_are_read_again(folder, monkeypatch):
    monkeypatch.setattr(images, "_SETTLED_NS", 10**15)
    first, loader = loaded(folder, "data.storage=disk")
    assert load_dataset(settings_of(folder, "data.storage=disk").data) is not first
    put_in_place(path := folder / "train" / "a" / "1.png", 1)
    status = path.stat()
    monkeypatch.setattr(os, "fstat", lambda _: status)
    with pytest.raises(UserError, match=r"1\.png: has changed since the data were looked through"):
        passes(loader)


def test_what_was_found_in_files_is_remembered_until_one_changes_and_not_while_they_are_new(
    folder, monkeypatch, tmp_path
):
    decoded = []
    original = ImageFiles.read
    monkeypatch.setattr(ImageFiles, "read", lambda *arguments: decoded.append(1) or original(*arguments))

    def look(*overrides):
        monkeypatch.setattr(datasets, "_kept", None)
        decoded.clear()
        found = load_dataset(settings_of(folder, "data.storage=disk", *overrides).data)
        return bool(decoded), (found.fingerprint, found.mean, found.std)

    _, findings = look()
    assert not (tmp_path / "cache").exists()
    monkeypatch.setattr(images, "_SETTLED_NS", -(10**15))
    assert look() == (True, findings)
    assert look() == (False, findings)
    assert look("data.split_seed=1")[0]
    assert look("data.image_size=7")[0]
    (folder / "train" / "a" / "1.png").touch()
    assert look() == (True, findings)
    for path in (tmp_path / "cache" / "lr-schedule-lab").iterdir():
        path.write_text("{")
    assert look() == (True, findings)


@pytest.mark.parametrize("is_remembered", [False, True])
def test_a_file_that_is_written_again_with_the_same_image_changes_nothing(
    folder, monkeypatch, caplog, all_old, is_remembered
):
    caplog.set_level(logging.INFO)
    before = passes(loaded(folder, "data.storage=disk")[1])
    monkeypatch.setattr(datasets, "_kept", None)
    if is_remembered:
        monkeypatch.setattr("harness.data.fingerprint.digests_of", lambda _: pytest.fail("examined again"))
    else:
        monkeypatch.setattr("harness.data.fingerprint._recall", lambda *_: None)
    _, loader = loaded(folder, "data.storage=disk")
    for path in folder.rglob("*.*"):
        path.write_bytes(path.read_bytes() + b" ")  # other bytes, another time, the same image
    assert_same_bits(before, passes(loader))
    assert 1 <= caplog.text.count("its image is the same") <= 3  # for each part, not for each file


@pytest.mark.parametrize(
    "nonsense",
    [
        {"mean": [1.0]}, {"std": [1.0, 0.0, 1.0]}, {"std": None}, {"mean": ["1", "1", "1"]}, {"fingerprint": "e" * 63},
        {"digests": "AAAA"}, {"digests": "?"}, {"digests": None}, "a digit", "words",
    ],
)  # fmt: skip
def test_what_was_remembered_of_files_is_believed_as_it_was_written_alone(
    folder, monkeypatch, tmp_path, all_old, nonsense
):
    def look():
        monkeypatch.setattr(datasets, "_kept", None)
        return load_dataset(settings_of(folder, "data.storage=disk").data)

    found = look()
    (memory,) = (tmp_path / "cache" / "lr-schedule-lab").iterdir()
    content, sound = (json.loads(memory.read_text()) for _ in range(2))
    if nonsense == "a digit":
        content["mean"][0] += 0.5
        memory.write_text(json.dumps(content))
    elif nonsense == "words":
        memory.write_text('{"mean": "a", "std": {}}')
    else:
        write_sealed(memory, {**read_sealed(memory), **nonsense})
    assert look().facts == found.facts
    assert json.loads(memory.read_text()) == sound


def test_digits_are_the_same_when_scikit_learn_keeps_them_elsewhere(monkeypatch):
    config = compose_config(["data=digits"])[0].data
    usual = load_dataset(config).fingerprint
    for missing in (lambda name: None, lambda name: __import__("importlib.machinery").machinery.ModuleSpec(name, None)):
        monkeypatch.setattr(datasets, "_kept", None)
        monkeypatch.setattr(sources, "find_spec", missing)
        assert load_dataset(config).fingerprint == usual


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("place", PLACES)
def test_on_cuda_batches_equal_those_of_the_cpu_and_nothing_waits_for_the_device(folder, place):
    config = settings_of(folder, f"data.storage={place}")
    parts = load_dataset(config.data)
    by_cpu = passes(Loader(parts, config, CPU))
    loader = Loader(parts, config, torch.device("cuda", 0))
    torch.cuda.set_sync_debug_mode("error")
    try:
        by_gpu = passes(loader)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert_same_bits([[(x.cpu(), y.cpu()) for x, y in batches] for batches in by_gpu], by_cpu)
