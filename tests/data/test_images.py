"""Images in files: what of them becomes pixels, and what is refused by its name."""

import numpy as np
import pytest
from PIL import Image

from jaxnn.data import load, map_images, map_splits
from jaxnn.data.files import examples_like, inputs_like
from jaxnn.data.images import MOST_PIXELS, find_examples, find_images, read_images
from jaxnn.data.preparation import from_facts


def pixels(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def write(path, array, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path, **options)
    return array


@pytest.fixture
def pets(tmp_path):
    """Two classes of twelve gray images each; their pixels by class."""
    folder = tmp_path / "pets"
    arrays = {
        name: [write(folder / name / f"{i}.png", pixels(5, 4, seed=100 * k + i)) for i in range(12)]
        for k, name in enumerate(("class10", "class2"))
    }
    return folder, arrays


def read(folder, **options):
    return read_images(find_examples(folder, None, None, **options))


def test_a_folder_is_read_in_the_natural_order_of_its_names(pets):
    folder, arrays = pets
    (folder / "class2" / ".hidden.png").write_bytes(b"")
    (folder / "class2" / "Thumbs.db").write_bytes(b"")
    (folder / "README.txt").write_text("Pets.")
    found = read(folder)
    assert found.class_names == ("class2", "class10")
    assert found.target.tolist() == [0] * 12 + [1] * 12
    assert found.x.dtype == np.uint8
    np.testing.assert_array_equal(found.x[..., 0], arrays["class2"] + arrays["class10"])


def test_pixels_become_0_to_1_and_predictions_are_prepared_alike(pets):
    folder, arrays = pets
    splits = load(folder, flatten=False, validation_fraction=0.25)
    every = np.stack(arrays["class2"] + arrays["class10"])[..., None].astype(np.float32) / 255
    parts = splits.train.x, splits.validation.x, splits.test.x
    given = sorted(x.tobytes() for part in parts for x in part)
    assert given == sorted(x.tobytes() for x in every)
    known = from_facts("test", *splits.preparation.facts())
    assert known == splits.preparation
    path = folder / "class10" / "3.png"
    x = known.inputs("test", inputs_like(known, path, None))
    np.testing.assert_array_equal(x, every[15:16])
    assert find_images(folder / "class2").names[:3] == ["0.png", "1.png", "2.png"]
    (folder / "class2").rename(folder / "class3")
    with pytest.raises(ValueError, match="among class2, class10, got class3"):
        examples_like(known, folder, None, None)


def test_all_pixels_are_standardised_by_the_training_examples(pets):
    splits = load(pets[0], standardize="all")
    assert splits.train.x.shape == (19, 20)
    np.testing.assert_allclose([splits.train.x.mean(), splits.train.x.std()], [0, 1], atol=1e-6)
    assert splits.preparation.describe() == "images of 5 × 4 pixels, gray, standardised"


def test_an_edited_image_is_read_anew_and_others_come_from_the_cache(pets, monkeypatch):
    folder = pets[0]
    before = read(folder).x
    changed = write(folder / "class2" / "0.png", pixels(5, 4, seed=999))
    np.testing.assert_array_equal(read(folder).x[0, ..., 0], changed)
    for name in ("decode", "_look"):
        monkeypatch.setattr(f"jaxnn.data.images.{name}", lambda *arguments: pytest.fail("decoded"))
    np.testing.assert_array_equal(read(folder).x[1:], before[1:])


def test_a_table_says_the_paths_and_numbers_or_classes(pets):
    folder, arrays = pets
    rows = [f"class2/{i}.png,{i / 2},{'ab'[i % 2]}" for i in (11, 0, 5, 7)]
    table = folder / "list.csv"
    table.write_text("\n".join(["file,age,kind", *rows]))
    found = read_images(find_examples(table, "file", ["age"]))
    np.testing.assert_array_equal(found.x[0, ..., 0], arrays["class2"][11])
    assert found.target.ravel().tolist() == [5.5, 0, 2.5, 3.5]
    assert found.target_names == ("age",)
    assert read_images(find_examples(table, "file", ["kind"])).class_names == ("a", "b")
    table.write_text("file,age\nclass2/0.png,1\nclass2/99.png,2\n")
    with pytest.raises(FileNotFoundError, match="line 3, column 'file': expected the path of a"):
        read_images(find_examples(table, "file", ["age"]))


def turned(path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    array = pixels(4, 6)
    write(path, array, exif=exif)
    return np.rot90(array, -1)  # 6: the top is at the right


KINDS = {
    "black and white": (lambda a: Image.fromarray(a > 128), lambda a: (a > 128) * np.uint8(255)),
    "palette": (
        lambda a: Image.fromarray(np.stack([a, a, a], 2)).quantize(256),
        lambda a: np.stack([a] * 3, 2),
    ),
    "opaque": (
        lambda a: Image.fromarray(np.stack([a, a, a + 1, np.full_like(a, 255)], 2)),
        lambda a: np.stack([a, a, a + 1], 2),
    ),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_mode_becomes_gray_or_rgb(kind, tmp_path):
    make, right = KINDS[kind]
    for name in "ab":
        (tmp_path / "d" / name).mkdir(parents=True)
        make(pixels(5, 4)).save(tmp_path / "d" / name / "1.png")
    expected = right(pixels(5, 4)).reshape(5, 4, -1)
    np.testing.assert_array_equal(read(tmp_path / "d").x[0], expected)


def test_gray_becomes_rgb_beside_colours_and_colours_gray_where_asked_for(tmp_path):
    gray, rgb = pixels(5, 4), pixels(5, 4, 3)
    write(tmp_path / "d" / "a" / "1.png", gray)
    write(tmp_path / "d" / "b" / "1.png", rgb)
    x = read(tmp_path / "d").x
    np.testing.assert_array_equal(x, [np.stack([gray] * 3, 2), rgb])
    x = read(tmp_path / "d", colors="gray").x[1, ..., 0]
    np.testing.assert_allclose(x, rgb @ [0.299, 0.587, 0.114], atol=0.51)


@pytest.mark.parametrize("suffix", ["tif", "png"])
def test_the_orientation_of_a_photograph_is_honoured(suffix, tmp_path):
    right = turned(tmp_path / "d" / "a" / f"1.{suffix}", 6)
    write(tmp_path / "d" / "b" / "1.png", pixels(6, 4))
    np.testing.assert_array_equal(read(tmp_path / "d").x[0, ..., 0], right)


def test_other_sizes_are_named_or_resized(pets):
    folder = pets[0]
    write(folder / "class2" / "wide.png", np.full((5, 9), 7, np.uint8))
    message = r"expected all to be 5 × 4, got \S*wide.png \(5 × 9\); train with --data.size 5 4"
    with pytest.raises(ValueError, match=message):
        read(folder)
    splits = load(folder, size=(3, 3), flatten=False)
    assert splits.preparation.shape == (3, 3, 1)
    x = inputs_like(splits.preparation, folder / "class2" / "wide.png", None)
    np.testing.assert_array_equal(x, np.full((1, 3, 3, 1), 7))


def deep_ppm(path):
    path.write_bytes(b"P6\n4 5\n65535\n" + bytes(range(120)))


def deep_png(path):
    """RGB of 16 bits, which Pillow would read as 8."""
    import struct
    import zlib

    def chunk(kind, data):
        check = zlib.crc32(kind + data)
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", check)

    header = struct.pack(">IIBBBBB", 4, 5, 16, 2, 0, 0, 0)
    rows = b"".join(b"\0" + bytes(24) for _ in range(5))
    parts = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + parts)


def bomb(path):
    Image.new("1", (1 << 13, (1 << 13) + 1)).save(path)
    assert MOST_PIXELS == 1 << 26


def huge(path):
    """More than Pillow itself opens."""
    path.write_bytes(b"P5\n900000 900000\n255\n" + bytes(9))


def moving(path):
    frames = [Image.fromarray(pixels(5, 4, seed=k)) for k in range(2)]
    frames[0].save(path, format="GIF", save_all=True, append_images=frames[1:])


def postscript(path):
    path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 4 5\n")


REFUSED = {
    "damaged": (lambda p: p.write_bytes(b"\x89PNG\r\n\x1a\nwhat"), "can be decoded"),
    "cut off": (lambda p: p.write_bytes(p.with_name("1.png").read_bytes()[:-30]), "can be decoded"),
    "empty": (lambda p: p.write_bytes(b""), "can be decoded"),
    "a program": (postscript, "can be decoded"),
    "16 bits": (lambda p: Image.fromarray(np.zeros((5, 4), np.uint16)).save(p), "16 bits a colour"),
    "16 bits of RGB": (deep_png, "16 bits a colour"),
    "16 bits of PPM": (deep_ppm, "16 bits a colour"),
    "a bomb": (bomb, "at most 67,108,864 pixels, got 8193 × 8192"),
    "a huge one": (huge, "decompression bomb"),
    "frames": (moving, "expected one image, got 2 frames"),
    "transparent": (lambda p: Image.new("RGBA", (4, 5), (9, 9, 9, 0)).save(p), "an opaque image"),
    "CMYK": (lambda p: Image.new("CMYK", (4, 5)).save(p, format="TIFF"), "got the mode CMYK"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_a_file_is_refused_by_its_name(kind, pets):
    folder = pets[0]
    damage, message = REFUSED[kind]
    damage(folder / "class2" / "0.png")
    with pytest.raises(ValueError, match=message) as info:
        read(folder)
    assert "class2/0.png" in str(info.value)
    assert "\n" not in str(info.value)


def rearranged(folder, *, new):
    folder.joinpath(new).parent.mkdir(parents=True, exist_ok=True)
    (folder / "class2" / "1.png").rename(folder / new)


ARRANGEMENTS = {
    "loose image": (lambda f: rearranged(f, new="a.png"), "got a.png beside the folders"),
    "other file": (lambda f: rearranged(f, new="class2/a.heic"), "got class2/a.heic: convert"),
    "empty class": (lambda f: (f / "class3").mkdir(), "got none in class3"),
    "parts": (lambda f: rearranged(f, new="Train/x/1.png"), "--data.name .*Train --data.test"),
}


@pytest.mark.parametrize("kind", ARRANGEMENTS)
def test_a_folder_that_says_no_classes_is_refused(kind, pets):
    arrange, message = ARRANGEMENTS[kind]
    arrange(pets[0])
    with pytest.raises(ValueError, match=message):
        load(pets[0])


def test_a_network_of_gray_images_refuses_colours(pets):
    known = load(pets[0]).preparation
    write(pets[0] / "red.png", pixels(5, 4, 3))
    with pytest.raises(ValueError, match=r"expected gray images, .* train with --data.colors gray"):
        inputs_like(known, pets[0] / "red.png", None)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"target": "a"}, "target has no meaning"),
        ({"size": (0, 3)}, "size to be a height and a width"),
        ({"colors": "grey"}, "did you mean .gray"),
        ({"inputs": "a"}, "inputs has no meaning"),
    ],
)
def test_options_without_a_meaning_are_refused(options, message, pets):
    with pytest.raises(ValueError, match=message):
        load(pets[0], **options)


@pytest.mark.parametrize("standardize", ["none", "all", "features"])
def test_images_are_mapped_as_they_are_loaded(standardize, pets, tmp_path, monkeypatch):
    monkeypatch.setattr("jaxnn.data.mapping._CHUNK", 5)
    options = {"validation_fraction": 0.25, "standardize": standardize, "seed": 3}
    loaded = load(pets[0], flatten=False, **options)
    mapped = map_splits(map_images(pets[0], tmp_path / "mapped", **options))
    for part, other in zip(loaded[:3], mapped[:3], strict=True):
        np.testing.assert_allclose(part.x, other.x, rtol=1e-6, atol=1e-6)
        np.testing.assert_array_equal(part.target, other.target)
    assert isinstance(mapped.train.x, np.memmap)
    assert mapped.preparation.images == loaded.preparation.images


def test_images_and_numbers_are_mapped_without_validation_and_with_a_test_of_their_own(
    pets, tmp_path
):
    folder = pets[0]
    (folder / "list.csv").write_text("f,age\n" + "\n".join(f"class2/{i}.png,{i}" for i in range(8)))
    (folder / "test.csv").write_text("f,age\nclass10/0.png,3\n")
    options = {"images": "f", "target": "age", "task": "regression", "standardize_target": True}
    options["test"] = folder / "test.csv"
    loaded = load(folder / "list.csv", flatten=False, **options)
    mapped = map_splits(map_images(folder / "list.csv", tmp_path / "mapped", **options))
    assert len(mapped.validation.x) == 0
    for part, other in ((loaded.train, mapped.train), (loaded.test, mapped.test)):
        np.testing.assert_array_equal(part.x, other.x)
        np.testing.assert_allclose(part.target, other.target, rtol=1e-6)


def test_more_images_than_the_memory_holds_are_refused_with_the_way_out(pets, monkeypatch):
    monkeypatch.setattr("jaxnn.data.images.memory", lambda: 1000.0)
    with pytest.raises(ValueError, match=r"take a smaller --data.size, or .* with map_data"):
        load(pets[0])
