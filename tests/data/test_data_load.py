import contextlib
import dataclasses
import gzip
import hashlib
import pickle
import re
import struct
import sys
import threading
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec
from urllib.error import URLError

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat
from torchvision import datasets
from torchvision.datasets import mnist

from distsim.data import default_root, digits, limit, load, published, subset
from distsim.data.digits import read_digits
from distsim.data.fit import fit_all
from distsim.data.formats import MNIST_FILES, SVHN_FILES, read_idx
from distsim.problems import CIFAR_CLASSES, PROBLEMS

DIGITS = tuple("0123456789")


@pytest.fixture(autouse=True)
def caches(tmp_path, monkeypatch):
    monkeypatch.setenv("DISTSIM_CACHE", str(tmp_path / "decoded"))
    monkeypatch.setenv("DISTSIM_DATA", str(tmp_path / "default"))


def problem(name, **changes):
    return dataclasses.replace(PROBLEMS[name], **changes)


def random_part(n, shape, seed):
    """n images (h, w[, c]) and labels that cover 0 to 9."""
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (n, *shape), dtype=np.uint8), rng.permutation(np.arange(n) % 10)


# --- SVHN ---


def write_mat(file, images, labels, **changes):
    content = {"X": images.transpose(1, 2, 3, 0), "y": np.where(labels == 0, 10, labels)[:, None].astype(np.uint8)}
    content |= changes
    savemat(file, {key: value for key, value in content.items() if value is not None}, do_compression=True)


@pytest.fixture
def svhn(tmp_path):
    for name, n in zip(SVHN_FILES, (30, 12), strict=True):
        write_mat(tmp_path / name, *random_part(n, (32, 32, 3), n))
    return tmp_path


def test_own_svhn_files(svhn):
    data = load(PROBLEMS["vgg_svhn"], f"files:{svhn}")
    images, labels = random_part(30, (32, 32, 3), 30)
    np.testing.assert_array_equal(data.train_images, images.transpose(0, 3, 1, 2))
    np.testing.assert_array_equal(data.train_labels, labels)
    assert data.classes == DIGITS
    assert len(data.test_labels) == 12


def test_own_svhn_files_are_read_as_torchvision_reads_them(svhn, monkeypatch):
    monkeypatch.setattr(datasets.SVHN, "_check_integrity", lambda self: True)
    theirs = datasets.SVHN(svhn, "train")
    ours = load(PROBLEMS["vgg_svhn"], f"files:{svhn}")
    np.testing.assert_array_equal(ours.train_images, theirs.data)
    np.testing.assert_array_equal(ours.train_labels, theirs.labels)


def test_unpublished_svhn_files_are_refused_without_files(svhn):
    md5 = hashlib.md5((svhn / "train_32x32.mat").read_bytes()).hexdigest()
    with pytest.raises(ValueError, match=r"train_32x32\.mat is there but damaged") as error:
        load(PROBLEMS["vgg_svhn"], str(svhn))
    for text in (md5, "e26dedcc434d2e4c54c9b2d4a06d8373", "delete it and pass --download", "pass --data files:PATH"):
        assert text in str(error.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"X": None}, "no variable X; "),
        ({"X": None, "y": None, "z": 1}, "no variable X and no y; "),
        ({"X": np.zeros((28, 28, 3, 30), np.uint8)}, r"X must be \(32, 32, 3, n\) uint8, got \(28, 28, 3, 30\) uint8"),
        ({"X": np.zeros((32, 32, 3, 30))}, r"X must be .* got \(32, 32, 3, 30\) float64"),
        ({"y": np.ones((29, 1))}, r"y must be \(30, 1\) numbers, one for each image, got \(29, 1\) float64"),
        ({"y": np.full((30, 1), 11)}, "labels in y must be 1 to 10"),
        ({"y": np.full((30, 1), 1.5)}, "labels in y must be 1 to 10"),
    ],
)
def test_ill_formed_mat_files(svhn, changes, message):
    write_mat(svhn / "train_32x32.mat", *random_part(30, (32, 32, 3), 30), **changes)
    with pytest.raises(ValueError, match=rf"train_32x32\.mat: {message}"):
        load(PROBLEMS["vgg_svhn"], f"files:{svhn}")


@pytest.mark.parametrize("damage", [lambda b: b"", lambda b: b"text" * 99, lambda b: b[: len(b) // 2]])
def test_damaged_mat_files(svhn, damage):
    file = svhn / "test_32x32.mat"
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(ValueError, match=r"cannot read .*test_32x32\.mat as a MATLAB 5 file: ."):
        load(PROBLEMS["vgg_svhn"], f"files:{svhn}")


# --- MNIST ---


def idx(array):
    header = struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
    return header + array.astype(np.uint8).tobytes()


def write_mnist(folder, packed=False):
    folder.mkdir(parents=True, exist_ok=True)
    arrays = [*random_part(25, (28, 28), 1), *random_part(11, (28, 28), 2)]
    for name, array in zip(MNIST_FILES, arrays, strict=True):
        content = idx(array)
        (folder / (f"{name}.gz" if packed else name)).write_bytes(gzip.compress(content) if packed else content)


@pytest.mark.parametrize("under", ["", "MNIST/raw"])
@pytest.mark.parametrize("packed", [False, True])
def test_own_mnist_files(tmp_path, under, packed):
    write_mnist(tmp_path / under, packed)
    data = load(PROBLEMS["lenet5_mnist"], f"files:{tmp_path}")
    images, labels = random_part(25, (28, 28), 1)
    np.testing.assert_array_equal(data.train_images[:, 0], images)
    np.testing.assert_array_equal(data.train_labels, labels)
    assert data.test_images.shape == (11, 1, 28, 28)
    assert data.classes == DIGITS


def test_idx_files_are_read_as_torchvision_reads_them(tmp_path):
    write_mnist(tmp_path)
    images, labels = tmp_path / MNIST_FILES[0], tmp_path / MNIST_FILES[1]
    np.testing.assert_array_equal(read_idx(images, 3), mnist.read_image_file(str(images)).numpy())
    np.testing.assert_array_equal(read_idx(labels, 1), mnist.read_label_file(str(labels)).numpy())


def test_unpublished_mnist_files_are_refused_without_files(tmp_path):
    write_mnist(tmp_path / "MNIST" / "raw")
    with pytest.raises(ValueError, match=r"train-images-idx3-ubyte is there but damaged.*files:PATH"):
        load(PROBLEMS["lenet5_mnist"], str(tmp_path))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (MNIST_FILES[0], b"", "is not an idx file of bytes in 3 dimensions: it begins ''"),
        (MNIST_FILES[0], idx(np.zeros(25)), "in 3 dimensions: it begins '00000801'"),
        (
            MNIST_FILES[0],
            idx(np.zeros((25, 28, 28)))[:-1],
            r"holds 19599 bytes of data, its header says \(25, 28, 28\)",
        ),
        (MNIST_FILES[1], idx(np.zeros(24)), "has 25 images, .*train-labels-idx1-ubyte 24 labels"),
        (MNIST_FILES[3], idx(np.full(11, 10)), "t10k-labels-idx1-ubyte: labels must be 0 to 9, found 10"),
        (MNIST_FILES[1], idx(np.zeros(25)), "class '1' has no training image"),
    ],
)
def test_ill_formed_idx_files(tmp_path, name, content, message):
    write_mnist(tmp_path)
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        load(PROBLEMS["lenet5_mnist"], f"files:{tmp_path}")


@pytest.mark.parametrize(
    "damage", [lambda b: b"plain text", lambda b: b[:100], lambda b: b[:50] + b"\x00" * 9 + b[59:]]
)
def test_damaged_gz_files(tmp_path, damage):
    write_mnist(tmp_path, packed=True)
    file = tmp_path / "train-images-idx3-ubyte.gz"
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(ValueError, match=r"cannot read .*train-images-idx3-ubyte\.gz: ."):
        load(PROBLEMS["lenet5_mnist"], f"files:{tmp_path}")


# --- CIFAR-10 and what all published data sets share ---


def write_cifar(root):
    """A small CIFAR-10 in its own format; gives the checksums of its files."""
    folder = root / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    md5 = {}
    for i, name in enumerate([*(f"data_batch_{k}" for k in range(1, 6)), "test_batch", "batches.meta"]):
        images, labels = random_part(20, (3, 32, 32), i)
        content = {"data": images.reshape(20, -1), "labels": labels.tolist()}
        if name == "batches.meta":
            content = {"label_names": list(CIFAR_CLASSES)}
        (folder / name).write_bytes(pickle.dumps(content))
        md5[name] = hashlib.md5((folder / name).read_bytes()).hexdigest()
    return md5


@pytest.fixture
def cifar(tmp_path, monkeypatch):
    """A folder with a small CIFAR-10 whose checksums torchvision and distsim take for the published ones."""
    root = tmp_path / "torchvision"
    md5 = write_cifar(root)
    for listed in ("train_list", "test_list"):
        monkeypatch.setattr(
            datasets.CIFAR10, listed, [(name, md5[name]) for name, _ in getattr(datasets.CIFAR10, listed)]
        )
    monkeypatch.setattr(datasets.CIFAR10, "meta", datasets.CIFAR10.meta | {"md5": md5["batches.meta"]})
    small = dataclasses.replace(published.PUBLISHED["cifar10"], files=published._cifar10_files())
    monkeypatch.setitem(published.PUBLISHED, "cifar10", small)
    return root


def test_cifar10_is_read_in_the_order_of_its_batches(cifar):
    data = load(PROBLEMS["vgg16_cifar10"], str(cifar))
    images, labels = zip(*(random_part(20, (3, 32, 32), i) for i in range(5)), strict=True)
    np.testing.assert_array_equal(data.train_images, np.concatenate(images))
    np.testing.assert_array_equal(data.train_labels, np.concatenate(labels))
    np.testing.assert_array_equal(data.test_images, random_part(20, (3, 32, 32), 5)[0])
    assert data.classes == CIFAR_CLASSES
    assert data.train_images.flags.c_contiguous


def test_a_problems_classes_and_limit_are_applied(cifar):
    whole = load(PROBLEMS["vgg16_cifar10"], str(cifar))
    part = load(problem("cifar4", train_limit=12), str(cifar))
    assert part.digest == limit(subset(whole, ("automobile", "truck", "airplane", "ship")), 12).digest


def test_an_empty_location_is_the_default_root(cifar, tmp_path):
    cifar.rename(tmp_path / "default")
    assert default_root() == tmp_path / "default"
    assert len(load(PROBLEMS["cifar2"], "").classes) == 2


def test_default_root_without_the_variable(tmp_path, monkeypatch):
    monkeypatch.delenv("DISTSIM_DATA")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert default_root() == tmp_path / ".cache" / "distsim" / "data"


def test_another_size_is_resized(cifar):
    whole = load(PROBLEMS["vgg16_cifar10"], str(cifar))
    recipe = dataclasses.replace(PROBLEMS["vgg16_cifar10"].recipe, normalise=None)
    small = load(problem("vgg16_cifar10", size=16, channels=1, recipe=recipe), str(cifar))
    np.testing.assert_array_equal(small.train_images, fit_all(whole.train_images, 16, 1))
    np.testing.assert_array_equal(small.test_images, fit_all(whole.test_images, 16, 1))


@pytest.mark.parametrize(("name", "title"), [("cifar2", "CIFAR-10"), ("vgg_svhn", "SVHN"), ("lenet5_mnist", "MNIST")])
def test_absent_published_data(tmp_path, name, title):
    with pytest.raises(FileNotFoundError) as error:
        load(PROBLEMS[name], str(tmp_path / "nowhere"))
    assert str(error.value) == (
        f"no {title} in {tmp_path / 'nowhere'}: pass --download to fetch it, "
        "or --data folder:PATH for a folder of images per class"
    )


def test_incomplete_published_data(cifar):
    (cifar / "cifar-10-batches-py" / "data_batch_3").unlink()
    message = r"CIFAR-10 in .*torchvision lacks cifar-10-batches-py/data_batch_3: pass --download"
    with pytest.raises(FileNotFoundError, match=message):
        load(PROBLEMS["cifar2"], str(cifar))


def test_damaged_cifar10_is_never_unpickled(cifar):
    class Exploit:
        def __reduce__(self):
            return pytest.fail, ("unpickled",)

    (cifar / "cifar-10-batches-py" / "data_batch_3").write_bytes(pickle.dumps(Exploit()))
    with pytest.raises(ValueError, match=r"data_batch_3 is there but damaged: its md5 is .* fetch it again$"):
        load(PROBLEMS["cifar2"], str(cifar))


def test_download_fetches_what_is_absent_and_only_then(tmp_path, cifar, monkeypatch):
    elsewhere, fetched = tmp_path / "elsewhere" / "deep", []

    def fetch(root):
        fetched.append(root)
        (cifar / "cifar-10-batches-py").rename(root / "cifar-10-batches-py")

    replaced = dataclasses.replace(published.PUBLISHED["cifar10"], fetch=fetch)
    monkeypatch.setitem(published.PUBLISHED, "cifar10", replaced)
    for _ in range(2):
        assert len(load(PROBLEMS["cifar2"], str(elsewhere), download=True).classes) == 2
    assert fetched == [elsewhere]


@pytest.mark.parametrize("name", ["cifar2", "vgg_svhn", "lenet5_mnist"])
def test_a_failed_download_is_explained(tmp_path, name, monkeypatch):
    def offline(*_args, **_kwargs):
        raise URLError("network is unreachable")

    monkeypatch.setattr("urllib.request.urlopen", offline)
    with pytest.raises(ConnectionError, match=r"could not download .* to .*: (.|\n)*network is unreachable"):
        load(PROBLEMS[name], str(tmp_path), download=True)


@contextlib.contextmanager
def recorded_requests():
    """A web server that serves nothing, also as a proxy; its port, and the first lines of what it was asked."""
    asked = []

    class Recorder(BaseHTTPRequestHandler):
        def parse_request(self):
            asked.append(self.raw_requestline.decode("latin-1").strip())
            self.requestline, self.request_version, self.command = asked[-1], "HTTP/1.0", "?"
            self.send_error(502)
            return False

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Recorder) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server.server_address[1], asked
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.parametrize("name", ["cifar2", "vgg_svhn", "lenet5_mnist"])
def test_a_download_is_tried_by_https_only(tmp_path, name, monkeypatch):
    """What goes through a proxy: CONNECT for https, GET for http."""
    before = urllib.request._opener
    with recorded_requests() as (port, asked):
        for variable in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
            monkeypatch.setenv(variable, f"http://127.0.0.1:{port}")
        for variable in ("no_proxy", "NO_PROXY"):
            monkeypatch.delenv(variable, raising=False)
        with pytest.raises(ConnectionError, match=r"could not download .* 502"):
            load(PROBLEMS[name], str(tmp_path), download=True)
    assert asked
    assert all(re.fullmatch(r"CONNECT [\w.-]+:443 HTTP/1\.\d", line) for line in asked), asked
    assert urllib.request._opener is before


def test_a_download_that_is_sent_on_to_http_is_refused():
    with recorded_requests() as (port, asked), published._https_only():
        with pytest.raises(URLError, match=r"http://.*/x is not fetched: what comes by http can be changed"):
            urllib.request.urlopen(f"http://127.0.0.1:{port}/x")
        assert asked == []


def test_published_checksums_are_torchvisions():
    files = published.PUBLISHED
    assert files["svhn"].files == (
        {"train_32x32.mat": "e26dedcc434d2e4c54c9b2d4a06d8373"},
        {"test_32x32.mat": "eb5a983be6a315427106f1b164d9cef3"},
    )
    assert len(files["cifar10"].files) == 7
    packed = [md5 for names in files["mnist"].files for name, md5 in names.items() if name.endswith(".gz")]
    assert packed == [md5 for _, md5 in datasets.MNIST.resources]


# --- digits, folders, and locations ---


def test_digits():
    data = load(PROBLEMS["digits"], "")
    assert data.train_images.shape == (1438, 1, 8, 8)
    assert data.test_images.shape == (359, 1, 8, 8)
    assert data.classes == DIGITS
    assert data.digest == read_digits().digest


def test_digits_are_scikit_learns_each_once():
    from sklearn.datasets import load_digits

    values, labels = load_digits(return_X_y=True)
    data = read_digits()
    ours = np.concatenate([data.train_images, data.test_images]).reshape(-1, 64)
    expected = np.floor(values * 255 / 16 + 0.5).astype(np.uint8)
    assert ours.max() == 255

    def rows(images, labels):
        return sorted(map(bytes, np.column_stack([images, labels.astype(np.uint8)])))

    assert rows(ours, np.concatenate([data.train_labels, data.test_labels])) == rows(expected, labels)


def test_digits_are_read_without_importing_scikit_learn(monkeypatch):
    expected, found = read_digits().digest, find_spec("sklearn")
    monkeypatch.setitem(sys.modules, "sklearn", None)  # an import fails
    monkeypatch.setattr(digits, "find_spec", lambda name: found)
    assert read_digits().digest == expected


def test_digits_come_from_scikit_learn_where_its_file_is_elsewhere(monkeypatch):
    expected = read_digits().digest
    monkeypatch.setattr(digits, "find_spec", lambda name: None)
    assert read_digits().digest == expected


def test_digits_split_holds_a_fifth_of_each_class():
    data = read_digits()
    test = np.bincount(data.test_labels)
    whole = test + np.bincount(data.train_labels)
    np.testing.assert_array_equal(test, np.floor(whole / 5 + 0.5))


def test_digits_for_a_larger_model():
    data = load(problem("digits", size=32, channels=3, classes=("7", "1")), "")
    assert data.train_images.shape[1:] == (3, 32, 32)
    assert data.classes == ("7", "1")


@pytest.mark.parametrize("name", ["cifar2", "digits", "lenet5_mnist"])
def test_a_folder_serves_any_problem(tmp_path, name):
    classes = ("truck", "automobile", "5")
    for part in ("train", "test"):
        for i, label in enumerate(classes):
            (tmp_path / part / label).mkdir(parents=True)
            for k in range(3):
                Image.new("RGB", (40, 50), (i, k, 9)).save(tmp_path / part / label / f"{k}.png")
    wanted = problem(name, classes=("truck", "5"), train_limit=4)
    data = load(wanted, f"folder:{tmp_path}")
    assert data.classes == ("truck", "5")
    assert data.train_images.shape == (4, wanted.channels, wanted.size, wanted.size)
    np.testing.assert_array_equal(data.train_labels, [1, 1, 0, 0])


@pytest.mark.parametrize(
    ("name", "changes", "location", "message"),
    [
        (
            "digits",
            {"source": "folder"},
            "",
            r"problem digits reads a folder of images per class: pass --data folder:PATH",
        ),
        (
            "digits",
            {"source": "imagenet"},
            "",
            "unknown source 'imagenet'; there are digits, folder, cifar10, svhn, mnist",
        ),
        ("cifar2", {}, "folder:", "--data folder: names no folder: pass folder:PATH"),
        ("vgg_svhn", {}, "files:", "--data files: names no folder: pass files:PATH"),
        (
            "cifar2",
            {},
            "files:/tmp",
            r"not of cifar10 \(its batches are Python pickles, which could run code\): pass --data",
        ),
        ("digits", {}, "files:/tmp", "reads the formats of svhn and mnist, not of digits: pass --data folder:PATH"),
    ],
)
def test_locations_that_do_not_suit(name, changes, location, message):
    with pytest.raises(ValueError, match=message):
        load(problem(name, **changes), location)


@pytest.mark.parametrize(("name", "file"), [("vgg_svhn", SVHN_FILES[0]), ("lenet5_mnist", MNIST_FILES[0])])
def test_own_files_that_are_absent(tmp_path, name, file):
    with pytest.raises(FileNotFoundError, match=f"no {file} in {tmp_path}: files:PATH takes the folder that holds it"):
        load(PROBLEMS[name], f"files:{tmp_path}")
