import os
import tracemalloc
import unicodedata

import numpy as np
import pytest
from PIL import Image

from distsim.data import cache_root, folder, limit, read_folder, subset
from distsim.data.fit import fit, fit_all, greys_of
from distsim.specs import Reading


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("DISTSIM_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def root(tmp_path):
    """Three classes with different counts, PNG, so that decoding is exact."""
    rng = np.random.default_rng(0)
    root = tmp_path / "pets"
    for part, counts in (("train", (4, 2, 3)), ("test", (1, 2, 1))):
        for name, count in zip(("ant", "bee", "cat"), counts, strict=True):
            (root / part / name).mkdir(parents=True)
            for i in range(count):
                pixels = rng.integers(0, 256, (10, 10, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(root / part / name / f"{i}.png")
    return root


def pixels_of(file):
    return np.asarray(Image.open(file)).transpose(2, 0, 1)


def equal(one, other):
    return one.digest == other.digest


def test_images_come_by_class_then_by_file_name(root):
    data = read_folder(root, 10, 3)
    assert data.classes == ("ant", "bee", "cat")
    np.testing.assert_array_equal(data.train_labels, [0, 0, 0, 0, 1, 1, 2, 2, 2])
    np.testing.assert_array_equal(data.test_labels, [0, 1, 1, 2])
    np.testing.assert_array_equal(data.train_images[5], pixels_of(root / "train" / "bee" / "1.png"))
    np.testing.assert_array_equal(data.test_images[3], pixels_of(root / "test" / "cat" / "0.png"))


def test_reading_some_classes_equals_reading_all_and_taking_some(root):
    wanted = ("cat", "ant")
    assert equal(read_folder(root, 10, 3, wanted), subset(read_folder(root, 10, 3), wanted))


def test_only_the_classes_asked_for_are_decoded(root):
    (root / "train" / "bee" / "0.png").write_bytes(b"not an image")
    read_folder(root, 10, 3, ("ant", "cat"))


def test_hidden_and_other_files_are_ignored(root):
    before = read_folder(root, 10, 3)
    for name in (".DS_Store", ".hidden.png", "notes.txt", "Thumbs.db"):
        (root / "train" / "ant" / name).write_bytes(b"x")
    (root / "train" / ".cache").mkdir()
    (root / "train" / "ant" / "folder.png").mkdir()
    assert equal(read_folder(root, 10, 3), before)


def test_extensions_are_case_insensitive(root):
    (root / "train" / "ant" / "0.png").rename(root / "train" / "ant" / "0.PNG")
    assert len(read_folder(root, 10, 3).train_labels) == 9


def test_second_read_comes_from_the_cache(root, cache, monkeypatch):
    first = read_folder(root, 10, 3)
    assert len(list(cache.iterdir())) == 1
    monkeypatch.setattr(folder, "fit", lambda *_: pytest.fail("decoded again"))
    assert equal(read_folder(root, 10, 3), first)
    assert equal(read_folder(root / ".." / "pets", 10, 3), first)  # the same folder by another path


@pytest.mark.parametrize("arguments", [(8, 3), (10, 1), (10, 3, ("bee", "ant"))])
def test_other_parameters_have_another_cache(root, cache, arguments):
    read_folder(root, 10, 3)
    read_folder(root, *arguments)
    assert len(list(cache.iterdir())) == 2


def test_a_changed_file_is_decoded_anew(root):
    read_folder(root, 10, 3)
    file = root / "train" / "ant" / "0.png"
    Image.new("RGB", (10, 10), (1, 2, 3)).save(file)
    os.utime(file, ns=(0, 0))
    assert read_folder(root, 10, 3).train_images[0, :, 0, 0].tolist() == [1, 2, 3]


@pytest.mark.parametrize(
    "damage", [lambda b: b[: len(b) // 2], lambda b: b"", lambda b: b[:700] + b"\xff\x00" + b[702:]]
)
def test_a_damaged_cache_is_rebuilt(root, cache, damage):
    first = read_folder(root, 10, 3)
    (file,) = cache.iterdir()
    whole = file.read_bytes()
    assert damage(whole) != whole
    file.write_bytes(damage(whole))
    assert equal(read_folder(root, 10, 3), first)
    assert [file.read_bytes() for file in cache.iterdir()] == [whole]


def test_a_cache_that_cannot_be_written_is_a_warning(root, cache):
    cache.write_text("a file where the folder should be")
    with pytest.warns(UserWarning, match="decoded images are not cached"):
        data = read_folder(root, 10, 3)
    assert len(data.train_labels) == 9


def test_a_failed_write_leaves_nothing_behind(root, cache, monkeypatch):
    def full(*_args, **_kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(folder.np, "savez", full)
    with pytest.warns(UserWarning, match="No space left"):
        read_folder(root, 10, 3)
    assert list(cache.iterdir()) == []


def test_default_cache_is_under_home(monkeypatch, tmp_path):
    monkeypatch.delenv("DISTSIM_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_root() == tmp_path / ".cache" / "distsim" / "decoded"


def test_a_user_without_a_home(monkeypatch, tmp_path):
    """As in a container: no HOME, and nobody in /etc/passwd has this number."""

    def nobody(*_):
        raise KeyError("getpwuid(): uid not found: 12345")

    monkeypatch.delenv("DISTSIM_CACHE")
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr("pwd.getpwuid", nobody)
    with pytest.raises(ValueError, match="this user has no home directory: set DISTSIM_CACHE to a folder"):
        cache_root()
    monkeypatch.setenv("DISTSIM_CACHE", str(tmp_path))
    assert cache_root() == tmp_path


def test_missing_folders(root, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no folder .*nowhere: --data folder:PATH takes"):
        read_folder(tmp_path / "nowhere", 10, 3)
    (root / "test").rename(root / "val")
    with pytest.raises(FileNotFoundError, match=r"no folder test in .*pets; it must hold"):
        read_folder(root, 10, 3)


def test_train_without_classes(tmp_path):
    (tmp_path / "train").mkdir()
    (tmp_path / "test").mkdir()
    with pytest.raises(ValueError, match=r"no class folder in .*train"):
        read_folder(tmp_path, 10, 3)


def test_train_and_test_must_have_the_same_classes(root):
    (root / "test" / "bee").rename(root / "test" / "wasp")
    with pytest.raises(ValueError, match="must have the same classes; only in train: bee; only in test: wasp"):
        read_folder(root, 10, 3)
    assert read_folder(root, 10, 3, ("cat", "ant")).classes == ("cat", "ant")
    with pytest.raises(ValueError, match=r"must have the same classes; only in train: bee$"):
        read_folder(root, 10, 3, ("bee", "ant"))


def test_unknown_class(root):
    with pytest.raises(ValueError, match=r"unknown class 'bees'; the data has ant, bee, cat \(did you mean 'bee'\?\)"):
        read_folder(root, 10, 3, ("ant", "bees"))


@pytest.mark.parametrize("part", ["train", "test"])
def test_empty_class(root, part):
    for file in (root / part / "bee").iterdir():
        file.unlink()
    with pytest.raises(ValueError, match=f"class 'bee' has no image in .*{part}"):
        read_folder(root, 10, 3)


@pytest.mark.parametrize("content", [b"", b"not an image", None], ids=["empty", "text", "cut short"])
def test_unreadable_image_is_named(root, content):
    file = root / "train" / "cat" / "1.png"
    file.write_bytes(file.read_bytes()[:200] if content is None else content)
    with pytest.raises(ValueError, match=r"cannot read image .*train/cat/1\.png: ."):
        read_folder(root, 10, 3)


# --- fit: one image to the model's input ---


@pytest.mark.parametrize(("width", "height"), [(8, 8), (16, 8), (9, 21), (3, 5), (100, 40)])
@pytest.mark.parametrize("channels", [1, 3])
def test_every_shape_comes_out_square(width, height, channels):
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    result = fit(Image.fromarray(pixels), 8, channels)
    assert result.shape == (channels, 8, 8)
    assert result.dtype == np.uint8
    assert result.flags.c_contiguous


def test_centre_is_cropped():
    pixels = np.arange(8 * 12, dtype=np.uint8).reshape(8, 12)
    np.testing.assert_array_equal(fit(Image.fromarray(pixels), 8, 1)[0], pixels[:, 2:10])
    np.testing.assert_array_equal(fit(Image.fromarray(pixels.T.copy()), 8, 1)[0], pixels.T[2:10])


def test_shrinking_is_antialiased():
    stripes = np.tile(np.array([0, 255], np.uint8), (64, 32))  # 64×64; without antialias some stripes would survive
    inner = fit(Image.fromarray(stripes), 8, 1)[0, :, 1:-1]
    assert (abs(inner.astype(int) - 127) <= 2).all()


def test_shrinking_is_torchvisions_antialiased_bilinear():
    import torch
    from torchvision.transforms.v2 import functional as F

    pixels = np.random.default_rng(3).integers(0, 256, (40, 80, 3), dtype=np.uint8)
    ours = fit(Image.fromarray(pixels), 16, 3)
    resized = F.resize(torch.from_numpy(pixels.transpose(2, 0, 1).copy()), [16], antialias=True)
    theirs = F.center_crop(resized, [16, 16])
    assert abs(ours.astype(int) - theirs.numpy().astype(int)).max() <= 1


@pytest.mark.parametrize(
    ("mode", "colour"),
    [("RGB", (51, 51, 51)), ("L", 51), ("RGBA", (51, 51, 51, 7)), ("LA", (51, 7)), ("CMYK", (0, 0, 0, 204))],
)
@pytest.mark.parametrize("channels", [1, 3])
def test_the_same_grey_in_every_mode(mode, colour, channels):
    np.testing.assert_array_equal(fit(Image.new(mode, (8, 8), colour), 8, channels), np.full((channels, 8, 8), 51))


def test_files_of_every_kind_give_the_same_grey(root):
    grey = Image.new("L", (10, 10), 51)
    palette = Image.new("P", (10, 10), 0)
    palette.putpalette([51, 51, 51, 9, 9, 9])
    samples = {
        "a.png": (grey, {}),
        "b.PGM": (grey, {}),
        "c.bmp": (grey.convert("RGB"), {}),
        "d.png": (grey.convert("RGBA"), {}),
        "e.gif": (palette, {}),
        "f.png": (palette, {"transparency": b"\x80\xff"}),
        "g.tif": (Image.new("CMYK", (10, 10), (0, 0, 0, 204)), {}),
        "h.png": (Image.fromarray(np.full((10, 10), 51 * 257, np.uint16)), {}),
        "i.jpg": (grey, {"quality": 100}),
        "j.webp": (grey.convert("RGB"), {"lossless": True}),
        "k.png": (grey.convert("L").point(lambda v: 255 * (v > 99), "1"), {}),  # one bit: black
    }
    for part in ("train", "test"):
        (root / part / "grey").mkdir()
    for name, (image, options) in samples.items():
        image.save(root / "train" / "grey" / name, **options)
    grey.save(root / "test" / "grey" / "a.png")
    images = read_folder(root, 10, 3, ("grey",)).train_images
    np.testing.assert_array_equal(images[:-1], np.full((10, 3, 10, 10), 51))
    np.testing.assert_array_equal(images[-1], np.zeros((3, 10, 10)))


def test_sixteen_bits_are_scaled_not_clipped():
    values = np.array([[0, 128, 129, 257], [32768, 65406, 65407, 65535]] * 2, np.uint16)
    np.testing.assert_array_equal(fit(Image.fromarray(values), 4, 1)[0, :2], [[0, 0, 1, 1], [128, 254, 255, 255]])


@pytest.mark.parametrize("values", [np.zeros((4, 4), np.float32), np.full((4, 4), 70000, np.int32)])
def test_more_than_sixteen_bits_are_refused(values):
    with pytest.raises(ValueError, match="more than 16 bits"):
        fit(Image.fromarray(values), 4, 1)


def test_fit_all_is_fit_of_each_and_nothing_where_all_fit():
    images = np.random.default_rng(0).integers(0, 256, (3, 3, 12, 9), dtype=np.uint8)
    expected = [fit(Image.fromarray(image.transpose(1, 2, 0).copy()), 6, 1) for image in images]
    np.testing.assert_array_equal(fit_all(images, 6, 1), expected)
    assert fit_all(images[..., :9, :], 9, 3).base is images
    np.testing.assert_array_equal(fit_all(images[:, :1, :9], 9, 3), images[:, :1, :9].repeat(3, axis=1))


@pytest.mark.parametrize("small", [0, 10**9], ids=["many threads", "one thread"])
def test_threads_do_not_change_the_result(root, monkeypatch, small):
    expected = [pixels_of(file) for file in sorted((root / "train").glob("*/*.png"))]
    monkeypatch.setattr(folder, "_SMALL_FILE", small)
    monkeypatch.setattr(folder, "_DECODE_BLOCK", 2)
    np.testing.assert_array_equal(read_folder(root, 10, 3).train_images, expected)


# --- what is taken for an image ---


def test_postscript_is_never_run(root):
    """Pillow would take it for an image by its content, and Ghostscript would run it."""
    file = root / "train" / "ant" / "0.jpg"
    file.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n%%EOF\n")
    with Image.open(file) as image:
        assert image.format == "EPS"
    with pytest.raises(ValueError, match=r"cannot read image .*0\.jpg: cannot identify image file"):
        read_folder(root, 10, 3)


def test_an_image_of_too_many_pixels_is_refused(root, monkeypatch):
    """Pillow only warns below twice its limit; warnings of threads would come at random."""
    monkeypatch.setattr(folder, "MOST_PIXELS", 80)
    with pytest.raises(ValueError, match=r"cannot read 13 images: .*0\.png: Image size \(100 pixels\) exceeds limit"):
        read_folder(root, 10, 3)


@pytest.mark.parametrize(("width", "height"), [(101, 1), (1, 101), (303, 3)])
def test_a_line_is_no_picture(width, height):
    with pytest.raises(ValueError, match=rf"an image of {width}x{height} pixels is too narrow"):
        fit(Image.new("RGB", (width, height)), 8, 3)


def test_the_longest_picture():
    assert fit(Image.new("RGB", (100, 1)), 8, 3).shape == (3, 8, 8)


def test_a_link_to_nothing_is_named(root):
    (root / "test" / "bee" / "new.png").symlink_to("nothing")
    with pytest.raises(ValueError, match=r"cannot read image .*new\.png: its link points to nothing"):
        read_folder(root, 10, 3)


# --- what is odd about images ----------------------------------------------------------------------------------------


def test_all_unreadable_images_are_counted_and_the_first_are_named(root):
    bad = [root / "train/ant" / f"{i}.png" for i in range(4)] + [root / "train/bee/1.png", root / "test/cat/0.png"]
    for file in bad:
        file.write_bytes(b"<html>404</html>")
    with pytest.raises(ValueError, match="cannot read 6 images: ") as caught:
        read_folder(root, 10, 3)
    assert all(str(file) in str(caught.value) for file in bad[:5])
    assert str(caught.value).endswith("; and 1 more. --skip-bad 6 leaves out what cannot be read")


NAMES = ("caf\u00e9", "th\u00e9")


@pytest.mark.parametrize(("train", "test"), [("NFD", "NFC"), ("NFC", "NFD"), ("NFD", "NFD")])
@pytest.mark.parametrize("asked", [None, "NFC", "NFD"])
def test_the_unicode_form_of_a_name_makes_no_other_class(tmp_path, train, test, asked):
    rng = np.random.default_rng(0)
    pixels = {(part, name): rng.integers(0, 256, (8, 8, 3), np.uint8) for part in ("train", "test") for name in NAMES}

    def written(root, forms):
        for (part, name), image in pixels.items():
            place = root / part / unicodedata.normalize(forms[part], name)
            place.mkdir(parents=True)
            Image.fromarray(image).save(place / "0.png")
        return root

    wanted = tuple(unicodedata.normalize(asked, name) for name in NAMES) if asked else ()
    plain = read_folder(written(tmp_path / "plain", {"train": "NFC", "test": "NFC"}), 8, 3)
    data = read_folder(written(tmp_path / "mixed", {"train": train, "test": test}), 8, 3, wanted)
    np.testing.assert_array_equal(data.train_images, plain.train_images)
    assert plain.classes == NAMES
    assert data.classes == (wanted or NAMES)


def test_two_folders_of_one_class_are_named(root):
    for form in ("NFC", "NFD"):
        (root / "train" / unicodedata.normalize(form, NAMES[0])).mkdir()
    with pytest.raises(ValueError, match=r"two folders of class .*'cafe\\u0301'"):
        read_folder(root, 10, 3)


@pytest.mark.parametrize("bits", [9, 12, 15])
def test_sixteen_bit_images_are_scaled_by_the_bits_that_they_use(root, bits):
    rng, white = np.random.default_rng(0), 2**bits - 1
    for file in sorted(root.rglob("*.png")):
        Image.fromarray(rng.integers(0, white, (10, 10)).astype(np.uint16)).save(file)
    values = np.linspace(0, white, 100).round().reshape(10, 10).astype(np.uint16)
    Image.fromarray(values).save(root / "test/ant/0.png")
    with pytest.warns(UserWarning, match=f"at most {white:,}: they are scaled by {bits} bits"):
        data = read_folder(root, 10, 1)
    np.testing.assert_array_equal(data.test_images[0, 0], np.floor(values * 255.0 / white + 0.5).astype(np.uint8))


@pytest.mark.parametrize("first", [np.full((10, 10), 2**15, np.uint16), np.full((10, 10), 51, np.uint8)])
def test_sixteen_bits_that_are_used_or_lie_beside_eight_are_scaled_as_sixteen(root, first):
    for file in root.rglob("*.png"):
        Image.fromarray(np.full((10, 10), 51 * 257, np.uint16)).save(file)
    Image.fromarray(first).save(root / "train/ant/0.png")
    assert (read_folder(root, 10, 1).train_images[1:] == 51).all()


@pytest.mark.parametrize("bits", [8, 12])
def test_sixteen_bits_beside_eight_are_scaled_by_the_bits_that_they_use(root, bits):
    """As 16 bits they would be nearly black beside the others."""
    whole = read_folder(root, 10, 1).train_images
    white = 2**bits - 1
    values = np.linspace(0, white, 100).round().reshape(10, 10).astype(np.uint16)
    Image.fromarray(values).save(root / "train/ant/0.png")
    with pytest.warns(UserWarning, match=f"at most {white:,}: they are scaled by {bits} bits"):
        data = read_folder(root, 10, 1)
    np.testing.assert_array_equal(data.train_images[0, 0], np.floor(values * 255.0 / white + 0.5).astype(np.uint8))
    np.testing.assert_array_equal(data.train_images[1:], whole[1:])
    with pytest.warns(UserWarning, match="scaled by 16 bits as asked"):
        asked = read_folder(root, 10, 1, reading=Reading(bits=16))
    assert asked.train_images[0].max() == {8: 1, 12: 16}[bits]


@pytest.mark.parametrize("part", ["train/bee", "train"])
def test_a_link_in_a_circle_is_named(root, part):
    (root / part / "new.png").symlink_to("new.png")
    kind = "class" if part == "train" else "image"
    with pytest.raises(ValueError, match=rf"cannot read {kind} .*new\.png: its link leads in a circle"):
        read_folder(root, 10, 3)
    if part == "train":
        return
    with pytest.warns(UserWarning, match="left out: train/bee/new.png"):
        assert len(read_folder(root, 10, 3, reading=Reading(skip_bad=1)).train_labels) == 9


def test_a_scan_of_ninety_megapixels_is_read(root):
    Image.new("L", (9500, 9500), 128).save(root / "train/cat/0.png")
    before = Image.MAX_IMAGE_PIXELS
    assert (read_folder(root, 10, 3).train_images[6] == 128).all()
    assert before == Image.MAX_IMAGE_PIXELS


def test_a_scan_of_sixteen_bits_is_converted_in_strips(root, monkeypatch):
    """Without strips it took 12 bytes a pixel beside Pillow's own: 3.4 GB for 16,000 x 16,000 pixels."""
    side = 1500
    monkeypatch.setattr("distsim.data.fit._STRIP", 10 * side)
    rows = np.linspace(0, 2**16 - 1, side).astype(np.uint16)
    Image.fromarray(np.repeat(rows[:, None], side, axis=1)).save(root / "train/cat/0.png")
    with Image.open(root / "train/cat/0.png") as image:
        image.load()
        tracemalloc.start()
        assert greys_of(image).largest == 2**16 - 1
        small = fit(image, 10, 3)
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert most < 2 * side**2, f"{most / side**2:.1f} bytes a pixel beside Pillow's own"
    assert np.ptp(small, axis=(0, 2)).max() == 0
    monkeypatch.setattr("distsim.data.fit._STRIP", side**2)
    np.testing.assert_array_equal(small, fit(Image.open(root / "train/cat/0.png"), 10, 3))
    assert (np.diff(small[0, :, 0].astype(int)) > 20).all()


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA"])
@pytest.mark.parametrize("channels", [1, 3])
def test_alpha_is_dropped_and_grey_made_colour_as_before_resizing(mode, channels):
    """Pillow weights colours by alpha when it resizes. Here they are resized by themselves."""
    bands = len(mode)
    pixels = np.random.default_rng(0).integers(0, 256, (31, 20, bands), np.uint8)
    image = Image.fromarray(pixels[..., 0] if bands == 1 else pixels)
    assert image.mode == mode
    opaque = image.convert("L" if channels == 1 else "RGB")
    for size in (8, 20, 25):
        np.testing.assert_array_equal(fit(image, size, channels), fit(opaque, size, channels))


# --- images that are left out, and the range of grey values ---


def damage(root, *files):
    for file in files:
        (root / file).write_bytes(b"<html>404</html>")


BAD = ("train/ant/1.png", "train/cat/0.png", "test/bee/1.png")


def test_images_that_cannot_be_read_are_left_out_and_named(root):
    whole = read_folder(root, 10, 3)
    damage(root, *BAD)
    with pytest.warns(UserWarning, match="3 images that cannot be read are left out: train/ant/1.png") as caught:
        data = read_folder(root, 10, 3, reading=Reading(skip_bad=3))
    assert all(name in str(caught[0].message) for name in BAD)
    assert [name for name, _ in data.skipped] == list(BAD)
    assert all("cannot identify image" in reason for _, reason in data.skipped)
    np.testing.assert_array_equal(data.train_images, np.delete(whole.train_images, [1, 6], axis=0))
    np.testing.assert_array_equal(data.train_labels, np.delete(whole.train_labels, [1, 6]))
    np.testing.assert_array_equal(data.test_images, np.delete(whole.test_images, 2, axis=0))
    np.testing.assert_array_equal(data.test_labels, np.delete(whole.test_labels, 2))


def test_no_more_images_are_left_out_than_asked(root):
    damage(root, *BAD)
    with pytest.raises(ValueError, match=r"cannot read 3 images, and skip_bad 2 leaves out at most 2: .*ant/1\.png"):
        read_folder(root, 10, 3, reading=Reading(skip_bad=2))


def test_what_was_left_out_is_in_the_digest(root):
    """Of two equal images, leaving out one or the other gives the same arrays; it is another identity all the same."""
    for at in (1, 2):
        Image.new("RGB", (10, 10)).save(root / f"train/ant/{at}.png")
    found = []
    for at in (1, 2):
        damage(root, f"train/ant/{at}.png")
        with pytest.warns(UserWarning, match="left out"):
            found.append(read_folder(root, 10, 3, reading=Reading(skip_bad=1)))
        Image.new("RGB", (10, 10)).save(root / f"train/ant/{at}.png")
    first, second = found
    np.testing.assert_array_equal(first.train_images, second.train_images)
    assert first.digest != second.digest
    assert subset(first, ("ant", "cat")).skipped == limit(first, 5).skipped == first.skipped
    assert read_folder(root, 10, 3, reading=Reading(skip_bad=9)).digest == read_folder(root, 10, 3).digest


def test_the_cache_knows_what_was_left_out(root, monkeypatch):
    damage(root, *BAD)
    with pytest.warns(UserWarning, match="left out"):
        first = read_folder(root, 10, 3, reading=Reading(skip_bad=5))
    with monkeypatch.context() as patch:
        patch.setattr(folder, "fit", None)  # nothing is decoded
        with pytest.warns(UserWarning, match="3 images that cannot be read are left out"):
            again = read_folder(root, 10, 3, reading=Reading(skip_bad=3))
    assert equal(first, again)
    assert first.skipped == again.skipped
    with pytest.raises(ValueError, match="cannot read 3 images: "):
        read_folder(root, 10, 3)


def test_a_link_to_nothing_is_one_of_the_images_that_cannot_be_read(root):
    damage(root, "train/ant/1.png")
    (root / "train/bee/x.png").symlink_to(root / "nowhere.png")
    with pytest.raises(
        ValueError, match=r"cannot read 2 images: .*ant/1\.png: .*; .*bee/x\.png: its link points to no"
    ):
        read_folder(root, 10, 3)
    with pytest.warns(UserWarning, match="2 images that cannot be read are left out"):
        data = read_folder(root, 10, 3, reading=Reading(skip_bad=2))
    assert dict(data.skipped)["train/bee/x.png"] == "its link points to nothing"


def test_a_name_that_is_not_utf8_can_be_left_out(root):
    name = os.fsencode(root / "train" / "ant") + b"/z\xe9.png"
    with open(name, "wb") as file:
        file.write(b"nothing")
    with pytest.warns(UserWarning, match="left out"):
        data = read_folder(root, 10, 3, reading=Reading(skip_bad=1))
    assert data.skipped[0][0] == "train/ant/z\\xe9.png"
    assert len(data.digest) == 64


def test_a_class_whose_images_are_all_left_out_is_named(root):
    damage(root, "train/bee/0.png", "train/bee/1.png")
    with pytest.raises(ValueError, match="class 'bee' has no training image"):
        read_folder(root, 10, 3, reading=Reading(skip_bad=2))


def grey(root, largest, first=None):
    rng = np.random.default_rng(0)
    for file in root.rglob("*.png"):
        Image.fromarray(rng.integers(0, largest + 1, (10, 10)).astype(np.uint16)).save(file)
    if first is not None:
        Image.fromarray(first).save(root / "train/ant/0.png")


def test_bits_say_the_range_instead_of_the_largest_value(root):
    """Twelve bits, of which this data set happens to use ten."""
    values = np.arange(100, dtype=np.uint16).reshape(10, 10) * 10
    grey(root, 990, values)
    with pytest.warns(UserWarning, match=r"at most 990: they are scaled by 12 bits as asked, 0 to 4,095 becoming"):
        data = read_folder(root, 10, 1, reading=Reading(bits=12))
    np.testing.assert_array_equal(data.train_images[0, 0], np.floor(values * 255.0 / 4095 + 0.5).astype(np.uint8))
    with pytest.warns(UserWarning, match="scaled by 10 bits, 0 to 1,023"):
        other = read_folder(root, 10, 1)
    assert other.digest != data.digest


def test_bits_are_used_beside_images_of_eight_bits_and_said_again_from_the_cache(root):
    grey(root, 4095, np.full((10, 10), 51, np.uint8))
    for _ in range(2):
        with pytest.warns(UserWarning, match="scaled by 12 bits as asked"):
            data = read_folder(root, 10, 1, reading=Reading(bits=12))
    assert (data.train_images[0] == 51).all()
    assert data.train_images[1:].max() > 250


def test_bits_below_the_largest_value_say_what_is_cut(root):
    grey(root, 4000)
    with pytest.warns(UserWarning, match=r"at most \d,\d+: .* 10 bits .* and all above 1,023 becoming 255"):
        assert (read_folder(root, 10, 1, reading=Reading(bits=10)).train_images == 255).mean() > 0.5


def test_bits_without_grey_values_of_more_than_eight_are_said_to_change_nothing(root):
    with pytest.warns(UserWarning, match="no image has grey values of more than 8 bits: bits 12 changes nothing"):
        data = read_folder(root, 10, 3, reading=Reading(bits=12))
    assert equal(data, read_folder(root, 10, 3))
