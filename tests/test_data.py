"""Data sets that are there, absent, damaged or out of reach."""

import shutil
import socket
import threading

import pytest
import torch

import gradviz.data
from gradviz.data import DataError, Shelf


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


def test_an_absent_data_set_is_replaced_by_the_digits_and_the_reader_is_told(tmp_path):
    name, sentence = Shelf(tmp_path, download=False).effective("mnist")
    assert name == "digits" and "MNIST is not in the data folder" in sentence and "built-in digits" in sentence


@pytest.mark.parametrize("damage", ["cut", "empty", "rubbish"])
def test_a_damaged_folder_is_named_and_never_a_traceback(data_folder, tmp_path, damage):
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for file in gradviz.data._FILES:
        shutil.copy(data_folder / "MNIST" / "raw" / file, raw)
    victim = raw / "t10k-images-idx3-ubyte"
    content = victim.read_bytes()
    victim.chmod(0o644)
    victim.write_bytes({"cut": content[:5000], "empty": b"", "rubbish": b"<html>not found</html>" * 100}[damage])
    shelf = Shelf(tmp_path, download=False)
    with pytest.raises(DataError, match="damaged.*delete that folder"):
        shelf.load("mnist")
    assert shelf.state("mnist").status == "damaged"
    assert shelf.effective("mnist")[0] == "digits"


def test_a_half_downloaded_folder_says_how_much_is_there(data_folder, tmp_path):
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    shutil.copy(data_folder / "MNIST" / "raw" / "t10k-labels-idx1-ubyte", raw)
    assert "1 of its 4 files" in Shelf(tmp_path, download=False).state("mnist").message


def test_a_server_that_never_answers_is_given_up(tmp_path, monkeypatch):
    """The proxy of this test accepts every connection and stays silent."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"http://127.0.0.1:{silent.getsockname()[1]}"
        for variable in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
            monkeypatch.setenv(variable, address)
        monkeypatch.setattr(gradviz.data, "_SILENCE", 3.0)
        shelf = Shelf(tmp_path)
        assert shelf.request("kmnist").status == "downloading"
        state = shelf.wait("kmnist")
    assert state.status == "unreachable" and "could not be downloaded" in state.message
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
