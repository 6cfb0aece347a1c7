"""Sources (folders, pairs, packs, tfds) and the pipeline: the same pictures for the same seed and position, always."""
import builtins
import doctest
import io
import itertools
import json
import shutil
import time

import numpy as np
import pytest
from PIL import Image

from indigo_jax import data, images, rng
from indigo_jax.data import preprocess
from tests.paths import ROOT, SHARED, needs_shared

pytest.importorskip("grain", reason='needs pip install "indigo_jax[train]"')


def coloured(index, height=20, width=24):
    """A picture whose pixels tell where they come from: (row, column, index)."""
    rows, columns = np.mgrid[:height, :width]
    return np.stack([rows, columns, np.full_like(rows, index)], axis=-1).astype(np.uint8)


def memory(count, pairs=False, **size):
    pictures = [coloured(i, **size) for i in range(count)]
    return data.arrays(pictures, measurements=pictures if pairs else None)


def batches(source, count, **options):
    options = {"batch_size": 4, "crop": 8, "seed": 3, "num_threads": 0} | options
    return list(itertools.islice(data.pipeline(source, **options), count))


def assert_same(first, second):
    assert len(first) == len(second) > 0
    for a, b in zip(first, second):
        assert a.keys() == b.keys()
        for key in a:
            np.testing.assert_array_equal(a[key], b[key])


def encoded(pixels, format_="PNG"):
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, format_)
    return stream.getvalue()


def write_pack(path, pictures, val=(), **changes):
    parts = [encoded(picture) for picture in pictures]
    arrays = {"buf": np.frombuffer(b"".join(parts), np.uint8), "off": np.cumsum([0] + [len(part) for part in parts]),
              "ids": np.array([f"p{i}" for i in range(len(parts))]), "val_mask": np.isin(np.arange(len(parts)), val)}
    np.savez(path, **{key: value for key, value in (arrays | changes).items() if value is not None})
    return path


def write_folder(path, names):
    for index, name in enumerate(names):
        images.write(path / name, coloured(index))
    return path


# ---- folders and pairs -------------------------------------------------------------------------------------------

@pytest.mark.parametrize("cache", [False, True])
def test_folder(tmp_path, cache):
    source = data.folder(write_folder(tmp_path / "a", ["b.png", "sub/a.bmp", "a.PNG"]), cache=cache)
    assert source.names == ["a.PNG", "b.png", "sub/a.bmp"] and len(source) == 3
    for _ in range(2):
        assert [element["image"][0, 0, 2] for element in map(source.__getitem__, range(3))] == [2, 0, 1]
    assert source[2]["id"] == rng.name_id("sub/a.bmp")
    np.testing.assert_array_equal(source[0]["image"], coloured(2))
    identity = source[1]["id"]
    (tmp_path / "a").rename(tmp_path / "b")
    assert data.folder(tmp_path / "b")[1]["id"] == identity


def test_folder_errors(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such folder"):
        data.folder(tmp_path / "gone")
    (tmp_path / "notes.txt").write_text("no picture")
    with pytest.raises(ValueError, match="no pictures in this folder"):
        data.folder(tmp_path)
    (tmp_path / "bad.png").write_text("no picture")
    with pytest.raises(images.ImageError, match="bad.png: text, not a picture"):
        data.folder(tmp_path)[0]


def cut(path, size):
    path.write_bytes(path.read_bytes()[:size])


def noisy(path, seed, **options):
    picture = np.random.default_rng(seed).integers(0, 256, (40, 48, 3), dtype=np.uint8)
    path.parent.mkdir(exist_ok=True)
    Image.fromarray(picture).save(path, **options)
    return path


def test_damaged_pictures_are_found_before_they_are_read(tmp_path, monkeypatch):
    folder = tmp_path / "train"
    for seed, name in enumerate(["00.png", "01.png", "02.jpg", "03.jpg", "04.webp", "05.png", "06.bmp", "07.tif"]):
        noisy(folder / name, seed)
    assert data.damaged(data.folder(folder)) == []
    cut(folder / "05.png", 2000)
    cut(folder / "03.jpg", 1500)
    cut(folder / "04.webp", 700)
    (folder / "01.png").write_bytes(bytes([*(folder / "01.png").read_bytes()[:900], 7, 7]) +
                                    (folder / "01.png").read_bytes()[902:])
    reasons = data.damaged(data.folder(folder))
    for reason, name in zip(reasons, ["01.png", "03.jpg", "04.webp", "05.png"], strict=True):
        assert f"{folder / name}: a truncated or damaged" in reason
    reasons = data.damaged(data.joined([data.folder(folder), data.folder(folder)], [3, 1]))
    assert len(reasons) == 8  # each time that a folder is named, whatever its repeats
    assert len(data.damaged(data.resized(data.folder(folder), 16))) == 4
    assert data.damaged(data.arrays(np.zeros((2, 8, 8, 3), np.uint8))) == []
    monkeypatch.setattr(images.checking, "read_rgb8", lambda *args, **more: pytest.fail("decoded"))
    assert images.check(folder / "00.png") == (40, 48) == images.check(folder / "02.jpg")


def test_a_look_knows_what_reading_knows(tmp_path):
    upright = Image.Exif()
    upright[0x0112] = 6  # a quarter turn
    for name in ("a.jpg", "a.png"):
        path = noisy(tmp_path / name, 0, exif=upright)
        assert images.check(path) == images.read_rgb8(path).shape[:2] == (48, 40)
    with pytest.raises(images.ImageError, match="a.png: 48 x 40 pixels, more than the limit"):
        images.check(tmp_path / "a.png", max_pixels=1000)
    (tmp_path / "b.png").write_text("no picture")
    for name, words in (("b.png", "text, not a picture"), ("gone.png", "no such file")):
        with pytest.raises(images.ImageError, match=f"{name}: {words}"):
            images.check(tmp_path / name)


def test_damaged_pairs_and_packs_are_found(tmp_path):
    for folder in ("sharp", "blurred"):
        write_folder(tmp_path / folder, ["a.png", "b.png", "c.png"])
    images.write(tmp_path / "blurred" / "c.png", np.zeros((3, 5, 3), np.uint8))
    cut(noisy(tmp_path / "blurred" / "a.png", 0), 500)
    reasons = data.damaged(data.paired_folders(tmp_path / "sharp", tmp_path / "blurred"))
    assert len(reasons) == 2 and "blurred/a.png: a truncated or damaged PNG" in reasons[0]
    assert "c.png has 5 x 3; they must be of one size" in reasons[1]
    good, bad = (noisy(tmp_path / name, 1).read_bytes() for name in ("good.png", "bad.png"))
    path = tmp_path / "pack.npz"
    np.savez(path, buf=np.frombuffer(good + bad[:600], np.uint8), off=[0, len(good), len(good) + 600],
             ids=["good", "bad"], val_mask=[False, False])
    [reason] = data.damaged(data.packed(path))
    assert "pack.npz[bad]: a truncated or damaged PNG" in reason


def test_paired_folders_match_by_name(tmp_path):
    write_folder(tmp_path / "sharp", ["b.png", "a.png", "s/a.png"])
    write_folder(tmp_path / "blurred", ["s/a.png", "a.bmp", "b.tif"])
    source = data.paired_folders(tmp_path / "sharp", tmp_path / "blurred")
    assert source.names == ["a.png", "b.png", "s/a.png"]
    found = [tuple(source[i][key][0, 0, 2] for key in ("image", "measurement")) for i in range(3)]
    assert found == [(1, 1), (0, 2), (2, 0)]
    assert source[2]["id"] == rng.name_id("s/a.png")


def test_pairs_without_partners_are_listed(tmp_path):
    write_folder(tmp_path / "sharp", ["a.png", "b.png"])
    write_folder(tmp_path / "blurred", ["b.png"] + [f"c{i}.png" for i in range(7)])
    with pytest.raises(ValueError) as caught:
        data.paired_folders(tmp_path / "sharp", tmp_path / "blurred")
    assert "1 sharp without a blurred one (a.png); 7 blurred without a sharp one (c0.png, " in str(caught.value)
    assert "c4.png, ...)" in str(caught.value)
    write_folder(tmp_path / "sharp", ["b.bmp"])
    with pytest.raises(ValueError, match="b.bmp and b.png differ in the extension only"):
        data.paired_folders(tmp_path / "sharp", tmp_path / "blurred")


def test_gopro_layout(tmp_path):
    write_folder(tmp_path, ["train/one/sharp/000.png", "train/two/sharp/000.png", "train/one/blur/000.png",
                            "train/one/blur_gamma/000.png", "train/two/blur/000.png", "test/x/sharp/1.png",
                            "test/x/blur/1.png"])
    source = data.open_source(f"gopro:{tmp_path}")
    assert source.names == ["one/sharp/000.png", "two/sharp/000.png"]
    assert [(source[i]["image"][0, 0, 2], source[i]["measurement"][0, 0, 2]) for i in (0, 1)] == [(0, 2), (1, 4)]
    assert len(data.gopro(tmp_path)) == 3 and len(data.open_source(f"gopro:{tmp_path}", split="val")) == 1
    (tmp_path / "train/one/blur/000.png").unlink()
    with pytest.raises(ValueError, match=r"1 sharp without a blurred one \(one/sharp/000.png\)"):
        data.gopro(tmp_path / "train")
    with pytest.raises(ValueError, match="not the GoPro layout"):
        data.gopro(tmp_path / "train" / "one" / "blur_gamma")


@needs_shared
def test_the_shared_gopro_pair():
    folder = SHARED / "data" / "eval_open" / "gopro"
    assert len(data.open_source(folder)) == 2


def test_arrays_are_checked():
    assert data.arrays(np.zeros([2, 4, 4, 3], np.uint8), names=["a", "b"])[1]["id"] == rng.name_id("b")
    with pytest.raises(ValueError, match="float64"):
        data.arrays(np.zeros([2, 4, 4, 3]))
    with pytest.raises(ValueError, match="differ in length"):
        data.arrays(np.zeros([2, 4, 4, 3], np.uint8), names=["a"])


# ---- packs -------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("cache", [False, True])
def test_pack_and_its_splits(tmp_path, cache):
    path = write_pack(tmp_path / "a.npz", [coloured(i, height=8 + i) for i in range(5)], val=[1, 3])
    train, val, both = (data.packed(path, split=split, cache=cache) for split in ("train", "val", "all"))
    assert (train.names, val.names, len(both)) == (["p0", "p2", "p4"], ["p1", "p3"], 5)
    for _ in range(2):
        np.testing.assert_array_equal(val[1]["image"], coloured(3, height=11))
    assert val[1]["id"] == both[3]["id"] == rng.name_id("p3")


def test_cached_pictures_are_decoded_once(tmp_path, monkeypatch):
    source = data.packed(write_pack(tmp_path / "a.npz", [coloured(0)] * 3), cache=True)
    calls = []
    monkeypatch.setattr(images, "read_rgb8", lambda *args, **kwargs: calls.append(1) or coloured(0))
    batches(source, 10)
    assert len(calls) == 3


@pytest.mark.parametrize("changes, message", [
    ({"off": None}, "not a picture pack, it lacks off"), ({"off": np.array([0, 9, 5])}, "damaged"),
    ({"off": np.arange(4)}, "damaged"),
    ({"buf": np.zeros(7, np.uint8)}, "damaged"), ({"val_mask": np.zeros(9, bool)}, "damaged"),
    ({"ids": np.array([{}, {}], object)}, "a.npz: not a readable .npz file"),
])
def test_damaged_packs_are_refused(tmp_path, changes, message):
    path = write_pack(tmp_path / "a.npz", [coloured(0)] * 2, **changes)
    with pytest.raises(ValueError, match=message):
        data.packed(path)


def test_other_pack_errors(tmp_path):
    path = write_pack(tmp_path / "a.npz", [coloured(0)] * 2)
    with pytest.raises(FileNotFoundError, match="no such pack"):
        data.packed(tmp_path / "gone.npz")
    with pytest.raises(ValueError, match="unknown split 'test'; a pack has"):
        data.packed(path, split="test")
    with pytest.raises(ValueError, match="the split 'val' is empty"):
        data.packed(path, split="val")
    for junk in (b"", b"text", path.read_bytes()[:200]):
        (tmp_path / "junk.npz").write_bytes(junk)
        with pytest.raises(ValueError, match="junk.npz: not a readable .npz file"):
            data.packed(tmp_path / "junk.npz")
    np.save(tmp_path / "array.npy", coloured(0))
    with pytest.raises(ValueError, match="not a picture pack, it lacks buf, off, ids, val_mask"):
        data.packed(tmp_path / "array.npy")
    with np.load(path) as pack:
        stored = dict(pack)
    stored["buf"][3] ^= 255
    np.savez(path, **stored)
    with pytest.raises(images.ImageError, match=r"a.npz\[p0\]"):
        data.packed(path)[0]


@needs_shared
def test_the_shared_pack_feeds_the_pipeline_fast_enough():
    path = SHARED / "data" / "train_bsds400" / "bsds400.npz"
    source = data.packed(path, split="val", cache=True)
    assert len(source) == 17 and len(data.packed(path)) == 383
    iterator = iter(data.pipeline(source, batch_size=16, crop=96, seed=0, num_threads=0))
    for _ in range(10):
        assert next(iterator)["image"].shape == (16, 96, 96, 3)
    start = time.process_time()
    for _ in range(20):
        next(iterator)
    assert (time.process_time() - start) / 20 < 0.05  # about 0.005 on an idle core


# ---- open_source -------------------------------------------------------------------------------------------------

def test_open_source_recognises(tmp_path):
    assert len(data.open_source(write_folder(tmp_path / "plain", ["a.png", "b.png"]))) == 2
    write_folder(tmp_path / "split", ["train/a.png", "val/b.png", "val/c.png"])
    assert [len(data.open_source(str(tmp_path / "split"), split=s)) for s in ("train", "val", "all")] == [1, 2, 3]
    pack = write_pack(tmp_path / "p.NPZ.npz", [coloured(0)] * 3, val=[0])
    assert len(data.open_source(pack)) == 2 and len(data.open_source(str(pack), split="val")) == 1
    pairs = data.open_source(f"pairs:{tmp_path / 'plain'},{tmp_path / 'plain'}")
    assert pairs[0].keys() == {"image", "id", "measurement"}


@pytest.mark.parametrize("spec, split, error, message", [
    ("gone", "train", FileNotFoundError, "no such folder or file; give a folder of pictures, FILE.npz, tfds:NAME"),
    ("notes.txt", "train", ValueError, "a file, but not an .npz pack"),
    ("plain", "test", ValueError, "unknown split 'test'"), ("plain", "val", ValueError, "no validation pictures"),
    ("halved", "train", ValueError, "no folder .*train to train on"),
    ("pairs:plain", "train", ValueError, "give two folders"),
    ("gopro:gone", "train", FileNotFoundError, "no such folder"),
    ("gone.npz", "train", FileNotFoundError, "no such pack"),
])
def test_open_source_errors(tmp_path, monkeypatch, spec, split, error, message):
    monkeypatch.chdir(tmp_path)
    write_folder(tmp_path, ["plain/a.png", "halved/val/a.png"])
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(error, match=message):
        data.open_source(spec, split=split)


# ---- tensorflow-datasets -----------------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def tfds_dir(tmp_path_factory):
    """Two small data sets, prepared as array_record without tensorflow."""
    library = pytest.importorskip("tensorflow_datasets", reason='needs pip install "indigo_jax[tfds]"')
    pytest.importorskip("array_record", reason='needs pip install "indigo_jax[tfds]"')
    root = tmp_path_factory.mktemp("tfds")

    class TinyPictures(library.core.GeneratorBasedBuilder):
        VERSION = library.core.Version("1.0.0")
        FEATURES = {"image": library.features.Image(shape=(None, None, 3)), "label": np.int64}

        def _info(self):
            return library.core.DatasetInfo(builder=self, features=library.features.FeaturesDict(self.FEATURES))

        def _split_generators(self, download):
            return {"train": self._generate_examples(5), "validation": self._generate_examples(2)}

        def _generate_examples(self, count):
            for i in range(count):
                yield i, {"image": encoded(coloured(i, height=10 + i)), "label": i}

    class TinyPairs(TinyPictures):
        FEATURES = {"hr": library.features.Image(shape=(None, None, 3)),
                    "lr": library.features.Image(shape=(None, None, 1))}

        def _split_generators(self, download):
            return {"train": self._generate_examples(3), "test": self._generate_examples(1)}

        def _generate_examples(self, count):
            for i in range(count):
                yield i, {"hr": encoded(coloured(i)), "lr": encoded(coloured(i)[::4, ::4, 2])}

    class TinyArrays(TinyPictures):
        FEATURES = {"image": library.features.Tensor(shape=(8, 6, 1), dtype=np.uint8), "label": np.int64}

        def _generate_examples(self, count):
            for i in range(count):
                yield i, {"image": np.full((8, 6, 1), 10 * i, np.uint8), "label": i}

    for builder in (TinyPictures, TinyPairs, TinyArrays):
        builder.__module__ = "__main__"  # of a builder in a package, tfds would look for more files in that package
        builder(data_dir=root, file_format="array_record").download_and_prepare()
    return root


def test_tfds_pictures(tfds_dir, monkeypatch):
    source = data.open_source("tfds:tiny_pictures", data_dir=tfds_dir, cache=True)
    assert len(source) == 5 and source[0].keys() == {"image", "id"}
    assert source[3]["id"] == rng.name_id("tiny_pictures/train/3")
    indices = set()
    for i in range(5):
        index = int(source[i]["image"][0, 0, 2])
        np.testing.assert_array_equal(source[i]["image"], coloured(index, height=10 + index))
        indices.add(index)
    assert indices == set(range(5))
    assert len(data.open_source("tfds:tiny_pictures", split="val", data_dir=tfds_dir)) == 2
    assert len(data.tfds("tiny_pictures:1.0.0", split="train[:40%]", data_dir=tfds_dir)) == 2
    monkeypatch.setenv("TFDS_DATA_DIR", str(tfds_dir))
    assert len(data.open_source("tfds:tiny_pictures", split="all")) == 7
    assert len(data.open_source("tfds:tiny_pairs", split="val")) == 1  # it has a test split only


def test_tfds_arrays_are_pictures_too(tfds_dir):
    source = data.tfds("tiny_arrays", data_dir=tfds_dir)
    assert sorted(int(source[i]["image"][0, 0, 2]) for i in range(5)) == [0, 10, 20, 30, 40]
    assert source[0]["image"].shape == (8, 6, 3) and source[0]["image"].dtype == np.uint8


def test_the_extra_holds_what_tfds_imports_without_saying_so():
    """tensorflow-datasets imports importlib_resources and asks for it on old versions of Python alone."""
    import configparser
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg")
    assert "importlib-resources" in parser["options.extras_require"]["tfds"]


def test_tfds_pairs_go_through_the_pipeline(tfds_dir):
    source = data.tfds("tiny_pairs", data_dir=tfds_dir)
    batch, = batches(source, 1, batch_size=2, augment=False)
    assert batch["image"].shape == (2, 8, 8, 3) and batch["measurement"].shape == (2, 2, 2, 3)
    np.testing.assert_array_equal(batch["measurement"], batch["image"][:, ::4, ::4, 2:].repeat(3, axis=-1))
    swapped = data.tfds("tiny_pairs", data_dir=tfds_dir, image_key="lr")
    assert swapped[0]["image"].shape == (5, 6, 3) and "measurement" not in swapped[0]


def test_tfds_errors(tfds_dir, monkeypatch):
    with pytest.raises(ValueError, match="no split 'oops'; it has train, validation"):
        data.tfds("tiny_pictures", split="oops", data_dir=tfds_dir)
    with pytest.raises(ValueError, match="no pictures under 'lr'; choose from image"):
        data.tfds("tiny_pictures", data_dir=tfds_dir, image_key="lr")
    for name in ("gone", "tiny_pictures:2.0.0"):
        with pytest.raises(FileNotFoundError, match="not prepared in .*download_and_prepare"):
            data.tfds(name, data_dir=tfds_dir)
    block_import(monkeypatch, "tensorflow_datasets")
    with pytest.raises(ImportError, match=r'pip install "indigo_jax\[tfds\]"'):
        data.tfds("tiny_pictures", data_dir=tfds_dir)


def test_tfds_variants_are_named(tfds_dir, tmp_path):
    shutil.copytree(tfds_dir / "tiny_pairs", tmp_path / "div" / "x4")
    with pytest.raises(ValueError, match="choose one of its variants: div/x4"):
        data.tfds("div", data_dir=tmp_path)


def test_tfrecord_without_tensorflow_names_the_fix(tfds_dir, tmp_path, monkeypatch):
    folder = tmp_path / "tiny_pictures" / "1.0.0"
    shutil.copytree(tfds_dir / "tiny_pictures" / "1.0.0", folder)
    facts = json.loads((folder / "dataset_info.json").read_text())
    (folder / "dataset_info.json").write_text(json.dumps(facts | {"fileFormat": "tfrecord"}))
    for file in folder.glob("*array_record*"):
        file.rename(folder / file.name.replace("array_record", "tfrecord"))
    block_import(monkeypatch, "tensorflow")
    with pytest.raises(ImportError, match="tfrecord only.*file_format='array_record'.*or pip install tensorflow"):
        data.tfds("tiny_pictures", data_dir=tmp_path)


# ---- the pipeline ------------------------------------------------------------------------------------------------

def test_batches_have_the_documented_shapes_and_types():
    for batch in batches(memory(6, pairs=True), 5):
        assert {key: (value.shape, value.dtype) for key, value in batch.items()} == {
            "image": ((4, 8, 8, 3), np.uint8), "id": ((4,), np.uint32), "measurement": ((4, 8, 8, 3), np.uint8)}


def test_seed_and_position_decide_everything():
    source = memory(7)
    first = batches(source, 6)
    assert_same(first, batches(source, 6))
    assert_same(first, batches(source, 6, num_threads=3))
    other = batches(source, 6, seed=4)
    assert any((a["image"] != b["image"]).any() for a, b in zip(first, other))


def test_each_epoch_shows_every_picture_once_in_a_new_order():
    source = memory(8)
    ids = np.concatenate([batch["id"] for batch in batches(source, 6)]).reshape(3, 8)
    expected = sorted(source[i]["id"] for i in range(8))
    assert all(sorted(epoch) == expected for epoch in ids)
    assert len({tuple(epoch) for epoch in ids}) == 3


def test_crops_are_windows_anywhere_and_new_each_epoch():
    source = memory(1, height=12, width=10)
    crops = np.concatenate([batch["image"] for batch in batches(source, 100, augment=False)])
    corners = crops[:, 0, 0]
    np.testing.assert_array_equal(crops, corners[:, None, None] + coloured(0, 8, 8)[None])
    assert {tuple(corner[:2]) for corner in corners} == {(y, x) for y in range(5) for x in range(3)}


@pytest.mark.parametrize("augment, count", [(True, 8), ("flip", 2), (False, 1)])
def test_augment_gives_the_symmetries_equally_often(augment, count):
    crops = np.concatenate([batch["image"] for batch in
                            batches(memory(1, height=8, width=8), 100, augment=augment)])
    symmetries, times = np.unique(crops[..., :2].reshape(400, -1), axis=0, return_counts=True)
    assert len(symmetries) == count
    assert abs(times - 400 / count).max() < 6 * np.sqrt(400 / count)
    if augment == "flip":
        assert (crops[:, 0, :, 0] == 0).all()  # the top row stays on top


def test_picture_and_measurement_stay_together():
    source = memory(5, pairs=True)
    for batch in batches(source, 10, crop=16):
        np.testing.assert_array_equal(batch["image"], batch["measurement"])
    pictures = [coloured(i, 24, 32) for i in range(5)]
    reduced = data.arrays(pictures, measurements=[picture[::4, ::4] for picture in pictures])
    for batch in batches(reduced, 5, augment=False, crop=12):
        np.testing.assert_array_equal(batch["image"][:, ::4, ::4], batch["measurement"])


@pytest.mark.parametrize("height, width", [(1, 1), (1, 9), (5, 3), (40, 6)])
def test_small_pictures_are_reflected(height, width):
    picture = coloured(9, height, width)
    batch, = batches(data.arrays([picture]), 1, augment=False)
    assert batch["image"].shape == (4, 8, 8, 3)
    reflected = np.pad(picture, [(0, max(8 - height, 0)), (0, max(8 - width, 0)), (0, 0)], mode="reflect")
    windows = np.lib.stride_tricks.sliding_window_view(reflected, (8, 8, 3)).reshape(-1, 8, 8, 3)
    for crop in batch["image"]:
        assert (crop == windows).all(axis=(1, 2, 3)).any()
    np.testing.assert_array_equal(np.unique(batch["image"][..., 2]), [9])


@pytest.mark.parametrize("threads", [0, 2])
@pytest.mark.parametrize("done", [0, 3, 7])
def test_a_restored_iterator_gives_the_rest(threads, done):
    pipeline = data.pipeline(memory(5), batch_size=4, crop=8, seed=1, num_threads=threads)
    iterator = iter(pipeline)
    for _ in range(done):
        next(iterator)
    state = json.loads(json.dumps(iterator.get_state()))
    rest = [next(iterator) for _ in range(4)]
    again = iter(pipeline)
    again.set_state(state)
    assert_same(rest, [next(again) for _ in range(4)])
    iterator.set_state(state)
    assert_same(rest, [next(iterator) for _ in range(4)])


@pytest.mark.parametrize("processes", [2, 4])
def test_processes_share_each_batch_without_overlap(processes):
    source = memory(16)
    whole = batches(source, 8)
    parts = [batches(source, 8, rows=rows) for rows in np.split(np.arange(4), processes)]
    joined = [{key: np.concatenate([part[key] for part in step]) for key in step[0]} for step in zip(*parts)]
    assert_same(whole, joined)
    seen = [{identity for batch in part[:4] for identity in batch["id"]} for part in parts]  # the first epoch
    assert sum(map(len, seen)) == len(set.union(*seen)) == 16


def test_one_epoch_drops_the_remainder():
    assert [len(batch["id"]) for batch in batches(memory(11), None, repeat=False)] == [4, 4]
    with pytest.raises(ValueError, match="3 pictures do not fill one batch of 4"):
        batches(memory(3), None, repeat=False)
    assert len(batches(memory(3), 5)) == 5


def test_whole_pictures():
    batch, = batches(memory(3, height=8, width=8), 1, crop=None)
    assert batch["image"].shape == (4, 8, 8, 3)
    mixed = data.arrays([coloured(0, 8, 8), coloured(1, 8, 9)])
    with pytest.raises(ValueError, match="different sizes .*give a crop"):
        batches(mixed, 1, crop=None)


@pytest.mark.parametrize("options, message", [
    ({"batch_size": 0}, "batch_size 0"), ({"rows": [0, 4]}, r"rows \[4\] are not in a batch of 4"),
    ({"rows": []}, "none at all"), ({"crop": 0}, "crop is 0"),
    ({"augment": "rotate"}, "augment is 'rotate'"), ({"seed": -1}, "seed is -1"),
])
def test_numbers_that_do_not_fit_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        batches(memory(4), 1, **options)


def test_bad_sources_are_named():
    with pytest.raises(ValueError, match="no pictures"):
        batches(data.arrays([]), 1)
    odd = data.arrays([coloured(0)], measurements=[coloured(0, 19, 24)])
    with pytest.raises(ValueError, match=r"the image is \(20, 24, 3\) and its measurement \(19, 24, 3\)"):
        batches(odd, 1)
    reduced = data.arrays([coloured(0)], measurements=[coloured(0)[::4, ::4]])
    with pytest.raises(ValueError, match="crop 6 is not a multiple of 4"):
        batches(reduced, 1, crop=6)


def block_import(monkeypatch, blocked):
    """As if a package were not installed."""
    plain = builtins.__import__

    def importing(name, *args, **kwargs):
        if name.split(".")[0] == blocked:
            raise ImportError(f"No module named {blocked!r}")
        return plain(name, *args, **kwargs)
    monkeypatch.setattr(builtins, "__import__", importing)


def test_without_grain_the_extra_is_named(monkeypatch):
    block_import(monkeypatch, "grain")
    with pytest.raises(ImportError, match=r'pip install "indigo_jax\[train\]"'):
        batches(memory(4), 1)
    assert len(list(data.evaluation_batches(memory(4), batch_size=2))) == 2


# ---- evaluation --------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("count, size", [(1, 4), (4, 4), (7, 3), (9, 2)])
def test_evaluation_shows_everything_once_in_order(count, size):
    source = memory(count, pairs=True)
    found = list(data.evaluation_batches(source, batch_size=size, crop=8))
    assert all(batch["image"].shape == (size, 8, 8, 3) and batch["mask"].dtype == bool for batch in found)
    ids = np.concatenate([batch["id"][batch["mask"]] for batch in found])
    np.testing.assert_array_equal(ids, np.array([source[i]["id"] for i in range(count)], np.uint32))
    np.testing.assert_array_equal(found[0]["image"][0], coloured(0)[6:14, 8:16])  # the middle
    np.testing.assert_array_equal(found[0]["image"], found[0]["measurement"])


def test_evaluation_of_whole_pictures_starts_a_batch_for_each_size():
    source = data.arrays([coloured(i, *size) for i, size in enumerate([(8, 6), (8, 6), (6, 8), (8, 6)])])
    found = list(data.evaluation_batches(source, batch_size=3))
    assert [batch["image"].shape[1:3] for batch in found] == [(8, 6), (6, 8), (8, 6)]
    assert [batch["mask"].tolist() for batch in found] == [[True, True, False], [True, False, False],
                                                           [True, False, False]]
    np.testing.assert_array_equal(found[0]["image"][2], coloured(1, 8, 6))
    for options in ({"batch_size": 0}, {"batch_size": 1, "crop": 0}):
        with pytest.raises(ValueError, match="must be at least 1"):
            next(data.evaluation_batches(source, **options))


def test_examples_in_the_docstrings():
    result = doctest.testmod(preprocess)
    assert result.attempted and not result.failed


# ---- several sources as one -----------------------------------------------------------------------------------------

def test_joined_sources_keep_their_order_their_names_and_their_shares():
    first, second = memory(2), memory(3, height=30)
    source = data.joined([first, second], [2, 1])
    assert len(source) == 7 == len(source.names)
    assert [source[i]["image"][0, 0, 2] for i in range(7)] == [0, 1, 0, 1, 0, 1, 2]
    assert [source[i]["image"].shape[0] for i in range(7)] == [20] * 4 + [30] * 3
    assert source.names == [str(name) for name in [*first.names, *first.names, *second.names]]
    assert "7 pictures" in repr(source)
    assert batches(source, 2)[0]["image"].shape == (4, 8, 8, 3)
    with pytest.raises(ValueError, match=r"repeats are \[1, 0\]; each must be at least 1"):
        data.joined([first, second], [1, 0])


def test_a_string_of_several_sources(tmp_path):
    for name, count in (("a", 2), ("b", 1)):
        for split in ("train", "val"):
            write_folder(tmp_path / name / split, [f"{name}{i}.png" for i in range(count)])
    spec = f"3*{tmp_path / 'a'}+{tmp_path / 'b'}"
    train, val = (data.open_source(spec, split=split) for split in ("train", "val"))
    assert len(train) == 3 * 2 + 1 and len(val) == 2 + 1  # nothing is measured twice
    assert len(data.open_source(f"{tmp_path / 'a'}+2*{tmp_path / 'b'}", split="all")) == 2 * 2 + 2 * 2
    with pytest.raises(FileNotFoundError, match="nothing"):
        data.open_source(f"{tmp_path / 'a'}+nothing")


def test_a_plus_in_a_name_is_no_sum(tmp_path):
    write_folder(tmp_path / "night+day", ["x.png"])
    assert len(data.open_source(tmp_path / "night+day")) == 1
