"""Data sets that are there, absent, damaged or out of reach."""

import gzip
import importlib.util
import os
import shutil
import socket
import ssl
import struct
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import idx
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from running import ROOT
from sklearn.datasets import load_digits

import gradviz.lenet.data
from gradviz.lenet.data import DataError, Shelf, why_no_download
from gradviz.messages import NOTHING, text
from gradviz.settings import Settings, SettingsError


def test_mnist_is_read_once_and_normalised(data_folder):
    shelf = Shelf(data_folder, download=False)
    mnist = shelf.load("mnist")
    assert mnist.train_images.shape == (60_000, 1, 28, 28) and mnist.test_images.shape == (10_000, 1, 28, 28)
    assert abs(mnist.train_images.mean()) < 1e-3 and mnist.train_images.std() == pytest.approx(1, abs=1e-3)
    assert mnist.train_labels.bincount().tolist()[:2] == [5923, 6742]  # LeCun's label file
    assert shelf.load("mnist") is mnist and shelf.state("mnist").status == "ready"


def test_the_built_in_digits_need_no_folder_and_no_network(tmp_path):
    digits = Shelf(tmp_path / "nowhere", download=False).load("digits")
    assert digits.train_images.shape == (1437, 1, 28, 28) and digits.test_images.shape == (360, 1, 28, 28)
    assert digits.train_images.mean().item() == pytest.approx(0, abs=1e-4)
    assert digits.train_labels.unique().tolist() == list(range(10))
    assert not torch.equal(digits.train_images[0], digits.train_images[1])


@pytest.mark.parametrize("found", [importlib.util.find_spec("sklearn"), None], ids=["file", "no file"])
def test_the_digits_are_scikit_learns_whether_its_file_lies_where_we_look_for_it_or_not(found, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: found)
    digits, (scans, labels) = Shelf("nowhere", download=False).load("digits"), load_digits(return_X_y=True)
    assert [*digits.train_labels, *digits.test_labels] == labels.tolist()
    images = torch.cat([digits.train_images, digits.test_images])
    enlarged = F.interpolate(torch.tensor(scans, dtype=torch.float32).view(-1, 1, 8, 8), size=(28, 28), mode="bilinear")
    darkest, brightest = images.aminmax()
    assert torch.allclose((images - darkest) / (brightest - darkest), enlarged / 16, atol=1e-5)


def test_an_absent_data_set_is_replaced_by_the_digits_and_the_reader_is_told(tmp_path):
    name, sentence = Shelf(tmp_path, download=False).effective("mnist")
    assert name == "digits" and "MNIST is not in the data folder" in str(sentence) and "built-in digits" in str(sentence)


def raw(folder, files=None, name="MNIST", pack=False):
    """A whole small data set as torchvision lays it out, but for the `files` given; a file that is None is left out."""
    whole = {file: content for file, content in (idx.contents() | (files or {})).items() if content is not None}
    return idx.write(folder / name / "raw", whole, pack)


TRAIN_IMAGES, TRAIN_LABELS, TEST_IMAGES, TEST_LABELS = idx.FILES
WHOLE = idx.contents()
# What lies in the folder -> the file and the words that the sentence names.
DAMAGES = {
    "cut": ({TEST_IMAGES: WHOLE[TEST_IMAGES][:5000]}, TEST_IMAGES, "cut short: it has 5,000 of 15,696 bytes"),
    "cut in the header": ({TEST_IMAGES: WHOLE[TEST_IMAGES][:9]}, TEST_IMAGES, "cut short"),
    "empty": ({TRAIN_LABELS: b""}, TRAIN_LABELS, "is empty"),
    "a web page": ({TRAIN_IMAGES: b"<html>not found</html>" * 100}, TRAIN_IMAGES, "not in the IDX format.*<htm"),
    "bytes too many": ({TEST_LABELS: WHOLE[TEST_LABELS] + b"more"}, TEST_LABELS, "goes on after its end"),
    "labels beyond 9": ({TRAIN_LABELS: idx.labels(100, most=25)}, TRAIN_LABELS, "the label 10 .number 10.; labels are 0 to 9"),
    "label 255": ({TEST_LABELS: WHOLE[TEST_LABELS][:-1] + b"\xff"}, TEST_LABELS, "the label 255"),
    "images for labels": ({TRAIN_LABELS: WHOLE[TRAIN_IMAGES]}, TRAIN_LABELS, "holds images where labels should be"),
    "labels for images": ({TRAIN_IMAGES: WHOLE[TRAIN_LABELS]}, TRAIN_IMAGES, "holds labels where images should be"),
    "labels of the test": ({TRAIN_LABELS: WHOLE[TEST_LABELS]}, TRAIN_LABELS, "holds 100 images, and .* 20 labels"),
    "32 by 32": ({TEST_IMAGES: idx.images(20, 32, 32)}, TEST_IMAGES, "images of 32 × 32 pixels, and not 28 × 28"),
    "colours": ({TEST_IMAGES: struct.pack(">IIIII", 0x804, 1, 28, 28, 3) + bytes(2352)}, TEST_IMAGES, "4-dimensional numbers"),
    "floats": ({TEST_IMAGES: struct.pack(">IIII", 0xD03, 1, 28, 28) + bytes(4 * 784)}, TEST_IMAGES, "holds float32"),
    "no image": ({TEST_IMAGES: idx.images(0), TEST_LABELS: idx.labels(0)}, TEST_IMAGES, "holds 0 of them"),
    "a number of images as if from nowhere": (
        {TRAIN_IMAGES: struct.pack(">IIII", 0x803, 2**32 - 1, 28, 28)}, TRAIN_IMAGES, "holds 4,294,967,295 of them"),
    "half a packed file": ({TRAIN_IMAGES: gzip.compress(WHOLE[TRAIN_IMAGES])[:20_000]}, TRAIN_IMAGES, "cannot be unpacked"),
    "a packed file with a wrong sum": (
        {TEST_LABELS: gzip.compress(WHOLE[TEST_LABELS])[:-8] + bytes(8)}, TEST_LABELS, "cannot be unpacked"),
    "a packed file that unpacks to more": (
        {TEST_LABELS: gzip.compress(WHOLE[TEST_LABELS] + bytes(10**6))}, TEST_LABELS, "goes on after its end"),
    "a packed file that unpacks to less": (
        {TEST_LABELS: gzip.compress(WHOLE[TEST_LABELS][:-3])}, TEST_LABELS, "cut short: it has 25 of 28 bytes"),
}  # fmt: skip


@pytest.mark.parametrize("files, victim, words", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_file_is_named_with_what_is_wrong_and_never_a_traceback(tmp_path, files, victim, words):
    folder = raw(tmp_path, files)
    shelf = Shelf(tmp_path, download=False)
    with pytest.raises(DataError, match=f"MNIST are damaged.*{words}") as error:
        shelf.load("mnist")
    assert str(folder / victim) in str(error.value) and "\n" not in str(error.value)
    assert shelf.state("mnist").status == "damaged"
    assert shelf.effective("mnist")[0] == "digits"
    for name, content in WHOLE.items():
        (folder / name).write_bytes(content)
    assert shelf.effective("mnist") == ("mnist", NOTHING)  # mended while the server runs
    assert len(shelf.load("mnist").train_labels) == 100


def of_brightness(count, mean):
    return struct.pack(">IIII", 0x803, count, 28, 28) + np.full((count, 28, 28), round(255 * mean), np.uint8).tobytes()


@pytest.mark.parametrize("victim, count", [(TRAIN_IMAGES, 100), (TEST_IMAGES, 20)])
def test_the_pictures_of_another_data_set_are_recognised(tmp_path, victim, count):
    raw(tmp_path, {victim: of_brightness(count, 0.286)})
    with pytest.raises(DataError, match=f"{victim} holds the pictures of Fashion-MNIST"):
        Shelf(tmp_path, download=False).load("mnist")


def test_exchanged_files_of_training_and_test_are_recognised(data_folder, tmp_path):
    (tmp_path / "MNIST").mkdir()
    for name in idx.FILES:
        other = name.replace("train", "?").replace("t10k", "train").replace("?", "t10k")
        (tmp_path / "MNIST" / other).symlink_to(data_folder / "MNIST" / "raw" / name)
    with pytest.raises(DataError, match="each other's content"):
        Shelf(tmp_path, download=False).load("mnist")


LAYOUTS = {
    "torchvision's": lambda folder: raw(folder),
    "packed": lambda folder: raw(folder, pack=True),
    "some packed": lambda folder: [raw(folder, {TEST_IMAGES: None}), idx.write(
        folder / "MNIST" / "raw", {TEST_IMAGES: WHOLE[TEST_IMAGES]}, pack=True)],
    "packed without saying so": lambda folder: raw(folder, {TRAIN_IMAGES: gzip.compress(WHOLE[TRAIN_IMAGES])}),
    "with a dot": lambda folder: idx.write(folder / "MNIST" / "raw", {n.replace("-idx", ".idx"): c for n, c in WHOLE.items()}),
    "in the folder itself": lambda folder: idx.write(folder, WHOLE),
    "packed in the folder itself": lambda folder: idx.write(folder, WHOLE, pack=True),
    "without raw": lambda folder: idx.write(folder / "MNIST", WHOLE),
    "raw alone": lambda folder: idx.write(folder / "raw", WHOLE),
    "small letters": lambda folder: idx.write(folder / "mnist" / "raw", WHOLE),
    "capitals": lambda folder: idx.write(folder / "MNIST" / "RAW", {n.upper(): c for n, c in WHOLE.items()}),
    "a level below": lambda folder: idx.write(folder / "sets" / "MNIST" / "raw", WHOLE),
    "a level below by another name": lambda folder: idx.write(folder / "downloads" / "digits of NIST", WHOLE),
    "a folder for each file": lambda folder: [idx.write(folder / "MNIST" / n, {n: c}) for n, c in WHOLE.items()],
    "beside another data set": lambda folder: [raw(folder), raw(folder, idx.contents(30, 10), "FashionMNIST"),
                                               raw(folder, idx.contents(40, 10), "KMNIST")],
    "beside half of another": lambda folder: [idx.write(folder, {TRAIN_IMAGES: idx.images(50)}), raw(folder)],
    "by a link": lambda folder: [idx.write(folder / ".elsewhere", WHOLE), (folder / "MNIST").symlink_to(folder / ".elsewhere")],
}  # fmt: skip


@pytest.mark.parametrize("lay", LAYOUTS.values(), ids=LAYOUTS)
def test_data_are_found_as_people_lay_them(tmp_path, lay):
    lay(tmp_path)
    mnist = Shelf(tmp_path, download=False).load("mnist")
    assert (len(mnist.train_labels), len(mnist.test_labels)) == (100, 20)
    first = np.frombuffer(WHOLE[TRAIN_IMAGES][16 : 16 + 784], np.uint8).astype(np.float32)
    np.testing.assert_allclose(mnist.train_images[0].flatten() * 0.3081 + 0.1307, first / 255, atol=1e-6)
    assert mnist.test_labels.tolist() == [*range(10), *range(10)]


@pytest.mark.parametrize("inside", ["", "MNIST", "MNIST/raw"])
def test_the_setting_may_name_a_level_below_too(tmp_path, inside):
    raw(tmp_path)
    raw(tmp_path, idx.contents(30, 10), "fashion_mnist")
    shelf = Shelf(tmp_path / inside, download=False)
    assert [len(shelf.load(name).train_labels) for name in ("mnist", "fashion")] == [100, 30]
    assert shelf.state("kmnist").status == "absent"


def test_files_in_a_nameless_folder_are_taken_for_the_data_set_that_they_look_like(tmp_path):
    idx.write(tmp_path, WHOLE | {TRAIN_IMAGES: of_brightness(100, 0.286), TEST_IMAGES: of_brightness(20, 0.287)})
    shelf = Shelf(tmp_path, download=False)
    assert [shelf.state(name).status for name in ("mnist", "fashion", "kmnist")] == ["absent", "ready", "absent"]
    assert shelf.load("fashion").name == "fashion"


def test_the_home_directory_may_be_written_with_a_tilde(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    raw(tmp_path / "sets")
    assert Settings.from_environment({"GRADVIZ_DATA": "~/sets"}).data == tmp_path / "sets"
    assert Settings.from_environment({"GRADVIZ_DATA": "", "GRADVIZ_STORE": "~"}) == Settings.from_environment(
        {"GRADVIZ_STORE": str(tmp_path)})  # fmt: skip
    assert Shelf(Path("~/sets"), download=False).state("mnist").status == "ready"
    with pytest.raises(SettingsError, match="GRADVIZ_DATA"):
        Settings.from_environment({"GRADVIZ_DATA": "~nobody_of_this_name/sets"})


def test_files_copied_in_while_the_server_runs_are_found(tmp_path):
    shelf = Shelf(tmp_path, download=False)
    assert shelf.effective("mnist")[0] == "digits"
    raw(tmp_path, {TEST_LABELS: None})
    said = str(shelf.effective("mnist")[1])
    assert "3 of its 4 files" in said and "has no t10k-labels" in said
    raw(tmp_path)
    assert shelf.effective("mnist") == ("mnist", NOTHING)


def test_what_was_looked_for_and_what_was_found_is_said(tmp_path):
    assert f"{tmp_path / 'sets'}: that folder does not exist" in str(Shelf(tmp_path / "sets").state("mnist").message)
    (tmp_path / "mnist.npz").write_bytes(b"PK")
    (tmp_path / TEST_LABELS).symlink_to(tmp_path / "gone")
    os.mkfifo(tmp_path / TRAIN_LABELS)
    message = str(Shelf(tmp_path, download=False).state("mnist").message)
    assert "no train-images-idx3-ubyte, packed or not, in it" in message and str(tmp_path) in message
    assert "mnist.npz is not taken" in message and "is a link to nothing" in message and "is no file" in message
    file = tmp_path / "mnist.npz"
    assert "a file of this name, and no folder" in str(Shelf(file, download=False).state("mnist").message)


LOCKED = """
import os, sys
from pathlib import Path
from gradviz.lenet.data import DataError, Shelf
from gradviz.messages import text
if os.getuid() == 0:
    os.setgroups([]), os.setgid(65534), os.setuid(65534)
for folder in sys.argv[1:]:
    shelf = Shelf(Path(folder), download=True, fetch=lambda *_: text("nobody may ask"))
    name, why = shelf.effective("mnist")
    print(folder, (name, str(why)), shelf.state("mnist").status, sep="\\t")
    try:
        shelf.load("mnist")
    except DataError as error:
        print(folder, error, sep="\\t")
"""
CLOSED = [(closed, mode) for closed in ("", "MNIST", "MNIST/raw", f"MNIST/raw/{TEST_LABELS}") for mode in (0o000, 0o600)]
APART = ("lost+found", 0o000)


@pytest.fixture(scope="module")
def read_by_another():
    """(what is closed, its mode) -> its folder and what a user says who may not read that; of all of them in one process."""
    root = Path(tempfile.mkdtemp())  # in the system's temporary folder, which another user may enter
    root.chmod(0o755)
    folders = {case: root / str(place) for place, case in enumerate([*CLOSED, APART])}
    for (closed, mode), folder in folders.items():
        raw(folder)
        if not (folder / closed).exists():
            (folder / closed).mkdir()
        (folder / closed).chmod(0o000 if os.path.isfile(folder / closed) else mode)
    said = subprocess.run([sys.executable, "-c", LOCKED, *folders.values()], capture_output=True, text=True, cwd=ROOT)
    assert said.returncode == 0, said.stderr
    lines = [line.split("\t", 1) for line in said.stdout.splitlines()]
    yield {case: (folder, [words for name, words in lines if name == str(folder)]) for case, folder in folders.items()}
    for folder in folders.values():
        for path in (folder, *folder.rglob("*")):
            path.chmod(0o755)
    shutil.rmtree(root)


@pytest.mark.parametrize("closed, mode", CLOSED)
def test_what_may_not_be_read_is_said_as_such_and_the_digits_step_in(read_by_another, closed, mode):
    folder, (effective, error) = read_by_another[closed, mode]
    assert effective.startswith("('digits'") and effective.endswith("forbidden")
    for words in (effective, error):
        assert "MNIST may not be read" in words and str(folder / closed) in words
        assert "damaged" not in words and "right to read" in words


def test_a_closed_folder_that_has_nothing_to_do_with_the_data_is_no_obstacle(read_by_another):
    _folder, said = read_by_another[APART]
    assert said == ["('mnist', '')\tready"]


def delivered(files, name="MNIST"):
    """A network that has these."""

    def fetch(_name, folder, tell):
        tell(0.5)
        idx.write(folder / name / "raw", files)
        return NOTHING

    return fetch


def test_a_download_leaves_the_users_own_files_alone(tmp_path):
    own = {"notes.txt": b"mine", TEST_LABELS: idx.labels(20, most=4)}
    folder = idx.write(tmp_path / "MNIST" / "raw", own | {TRAIN_LABELS: b"half a download"})
    (tmp_path / "MNIST" / "thesis").mkdir()
    shelf = Shelf(tmp_path, fetch=delivered(WHOLE))
    assert shelf.wait("mnist").status == "ready"
    assert {name: (folder / name).read_bytes() for name in own} == own  # a whole file stays
    assert (folder / f"{TRAIN_LABELS}.damaged").read_bytes() == b"half a download"
    assert (folder / TRAIN_LABELS).read_bytes() == WHOLE[TRAIN_LABELS]
    assert sorted(path.name for path in (tmp_path / "MNIST").iterdir()) == ["raw", "thesis"]
    assert shelf.load("mnist").test_labels.tolist() == [*range(5)] * 4
    assert not list(tmp_path.rglob(".download-*"))


def test_a_download_goes_where_a_link_of_that_name_leads(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "MNIST").symlink_to(tmp_path / "elsewhere")
    assert Shelf(tmp_path, fetch=delivered(WHOLE)).wait("mnist").status == "ready"
    assert (tmp_path / "MNIST").is_symlink() and len(list((tmp_path / "elsewhere" / "raw").iterdir())) == 4


def test_a_download_that_failed_is_tried_again_when_somebody_asks_later(tmp_path):
    answers = iter([text("the network does not reach it"), NOTHING])

    def fetch(name, folder, tell):
        return next(answers) or delivered(WHOLE)(name, folder, tell)

    shelf = Shelf(tmp_path, fetch=fetch, retry=0.0)
    assert shelf.wait("mnist").status == "unreachable"
    assert "the network does not reach it. It is tried again" in str(shelf.state("mnist").message)
    assert shelf.wait("mnist").status == "ready"
    patient = Shelf(tmp_path / "other", fetch=lambda *_: text("no"))
    patient.wait("mnist")
    assert patient.request("mnist").status == "unreachable"  # and not at every look
    raw(tmp_path / "other")
    assert patient.request("mnist").status == "ready"


def test_a_folder_that_cannot_be_written_is_said(tmp_path):
    (tmp_path / "MNIST").write_bytes(b"a file, and no folder")
    shelf = Shelf(tmp_path, fetch=delivered(WHOLE))
    assert "cannot be written" in str(shelf.wait("mnist").message)
    assert (tmp_path / "MNIST").read_bytes() == b"a file, and no folder"


@pytest.mark.parametrize(
    "error, words",
    [
        (ssl.SSLCertVerificationError(1, "[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed"), "certificate"),
        (socket.gaierror(-3, "Temporary failure in name resolution"), "server is not found"),
        (socket.gaierror(-2, "Name or service not known"), "server is not found"),
        (socket.gaierror(11001, "getaddrinfo failed"), "server is not found"),
        (OSError(28, "No space left on device"), "disk is full"),
        (OSError("Tunnel connection failed: 403 Forbidden"), "proxy"),
        (TimeoutError("timed out"), "silent"),
        (RuntimeError("File not found or corrupted."), "not the data set"),
        (RuntimeError("HTTP Error 503: Service Unavailable"), "answered with an error"),
        (RuntimeError("something new"), "does not reach it"),
    ],
)
def test_why_a_download_failed_is_said_in_words(error, words):
    assert words in str(why_no_download(f"Traceback ...\nurllib.error.URLError: <urlopen error {error}>"))


def test_a_half_downloaded_folder_says_how_much_is_there(data_folder, tmp_path):
    folder = tmp_path / "MNIST" / "raw"
    folder.mkdir(parents=True)
    shutil.copy(data_folder / "MNIST" / "raw" / "t10k-labels-idx1-ubyte", folder)
    assert "1 of its 4 files" in str(Shelf(tmp_path, download=False).state("mnist").message)


def test_a_server_that_never_answers_is_given_up(tmp_path, monkeypatch):
    """The proxy of this test accepts every connection and stays silent."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"http://127.0.0.1:{silent.getsockname()[1]}"
        for variable in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
            monkeypatch.setenv(variable, address)
        monkeypatch.setattr(gradviz.lenet.data, "SILENCE", 3.0)
        shelf = Shelf(tmp_path)
        assert shelf.request("kmnist").status == "downloading"
        state = shelf.wait("kmnist")
    assert state.status == "unreachable" and "could not be downloaded" in str(state.message)
    assert list(tmp_path.iterdir()) == []  # nothing half-finished stays behind


def test_many_threads_that_ask_at_once_share_one_data_set(tmp_path):
    shelf = Shelf(tmp_path, download=False)
    found = []
    threads = [threading.Thread(target=lambda: found.append(shelf.load("digits"))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({id(dataset) for dataset in found}) == 1


DOWNLOADS = "import sys; from pathlib import Path; from gradviz.lenet.data import Shelf; Shelf(Path(sys.argv[1])).wait('mnist')"


def test_a_server_killed_in_the_middle_of_a_download_leaves_neither_its_child_nor_its_folder(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent.settimeout(60)
        proxy = f"http://127.0.0.1:{silent.getsockname()[1]}"
        environment = os.environ | dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), proxy)
        environment |= {"no_proxy": "", "NO_PROXY": ""}
        command = [sys.executable, "-c", DOWNLOADS, str(tmp_path / "sets")]
        with subprocess.Popen(command, cwd=Path(__file__).parents[2], env=environment) as server:
            connection, _address = silent.accept()  # the child asks
            connection.settimeout(60)
            assert list((tmp_path / "sets").glob(".download-*"))
            server.kill()
        with connection:
            while connection.recv(4096):
                pass  # until the child is gone
        assert not list((tmp_path / "sets").glob(".download-*"))


def test_what_a_download_left_long_ago_is_cleared_away_at_the_next(tmp_path):
    old, young = tmp_path / ".download-old", tmp_path / ".download-young"
    for folder in (old, young):
        folder.mkdir()
    os.utime(old, (0, 0))
    assert Shelf(tmp_path, fetch=delivered(WHOLE)).wait("mnist").status == "ready"
    assert not old.exists() and young.exists()


def test_a_name_that_no_page_can_show_does_not_break_the_sentence(tmp_path):
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff\n\x1b[31m"))
    raw(folder, {TRAIN_IMAGES: b"bad"})
    state = Shelf(tmp_path, download=False).state("mnist")
    assert state.status == "damaged" and str(state.message).isprintable() and str(state.message).encode()


def test_links_that_go_round_in_a_circle_are_not_called_closed(tmp_path):
    folder = raw(tmp_path, {TRAIN_IMAGES: None})
    (folder / TRAIN_IMAGES).symlink_to(folder / TRAIN_IMAGES)
    state = Shelf(tmp_path, download=False).state("mnist")
    assert state.status == "absent" and f"{TRAIN_IMAGES} leads nowhere" in str(state.message)
