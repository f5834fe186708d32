"""cliphelpers.download on a small archive that a server on this machine serves."""

import io
import logging
import socket
import stat
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pooch
import pytest

from cliphelpers import download
from cliphelpers.download import ARCHIVE, DownloadError, download_fruits_360
from cliphelpers.index import index_images

ROOT = "Fruit-Images-Dataset-ffda2d1/"
NAMES = [
    f"{part}/{label}/{number}_100.jpg"
    for part, numbers in (("Training", (0, 1)), ("Test", (2,)))
    for label in ("Apple Red 1", "Banana")
    for number in numbers
]


class Server(ThreadingHTTPServer):
    """Serves ``content`` at every path; breaks off once if asked to."""

    def __init__(self, content):
        super().__init__(("127.0.0.1", 0), Handler)
        self.content, self.broken_at, self.sent = content, None, []


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Length", str(len(self.server.content)))
        self.end_headers()
        body = self.server.content[: self.server.broken_at]
        self.server.broken_at = None
        self.server.sent.append(len(body))
        return self.wfile.write(body)

    def log_message(self, *_):
        pass


@pytest.fixture
def pictures(draw):
    """The small edition's members: dict of name to bytes."""
    made = {name: draw(f"source/{name}", seed=seed) for seed, name in enumerate(NAMES)}
    return {ROOT + name: path.read_bytes() for name, path in made.items()}


def pack(members):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def small_edition(port, monkeypatch):
    monkeypatch.setattr(download, "URL", f"http://127.0.0.1:{port}/zip")
    monkeypatch.setattr(download, "CLASSES", 2)
    monkeypatch.setattr(download, "PICTURES", {"Training": 4, "Test": 2})
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@pytest.fixture
def server(pictures, monkeypatch):
    others = {ROOT: "", f"{ROOT}Test/": "", f"{ROOT}readme.md": "text", f"{ROOT}papers/a.jpg": "x"}
    server = Server(pack(others | pictures))
    small_edition(server.server_port, monkeypatch)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def files(folder):
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


def test_only_training_and_test_are_unpacked_and_nothing_else_is_left(server, pictures, tmp_path):
    home = tmp_path / "home"
    folder = download_fruits_360(home / "fruits 🍎")
    assert files(home) == sorted(f"fruits 🍎/{name}" for name in NAMES)
    assert (folder / NAMES[0]).read_bytes() == pictures[ROOT + NAMES[0]]
    assert index_images(folder).split.value_counts().to_dict() == {"train": 4, "test": 2}


def test_a_whole_folder_is_not_downloaded_again_and_an_empty_one_is_filled(server, tmp_path):
    folder = tmp_path / "fruits"
    folder.mkdir()
    download_fruits_360(folder)
    download_fruits_360(folder)
    assert server.sent == [len(server.content)]


def test_a_broken_transfer_leaves_nothing_and_the_next_begins_again(server, tmp_path):
    server.broken_at = 700
    with pytest.raises(DownloadError, match="Cannot bring .*[Cc]onnection broken"):
        download_fruits_360(tmp_path / "home" / "fruits")
    assert not list((tmp_path / "home").iterdir())
    download_fruits_360(tmp_path / "home" / "fruits")
    assert server.sent == [700, len(server.content)]


def test_an_archive_put_there_by_hand_is_taken(server, tmp_path):
    (tmp_path / ARCHIVE).write_bytes(server.content)
    download_fruits_360(tmp_path / "fruits")
    assert server.sent == []


def test_offline_says_what_to_do_by_hand(tmp_path, monkeypatch):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        small_edition(unused.getsockname()[1], monkeypatch)
    with pytest.raises(DownloadError, match="no connection") as caught:
        download_fruits_360(tmp_path / "fruits")
    for words in (download.URL, str(tmp_path / ARCHIVE), str(tmp_path / "fruits"), "index_images"):
        assert words in str(caught.value)


def test_a_refusing_server_is_named_with_its_answer(server, tmp_path, monkeypatch):
    monkeypatch.setattr(Handler, "do_GET", lambda self: self.send_error(404))
    with pytest.raises(DownloadError, match="Cannot bring .*404"):
        download_fruits_360(tmp_path / "fruits")


@pytest.mark.parametrize(
    "name",
    [
        f"{ROOT}Training/../../../evil.jpg",
        f"{ROOT}Training/Banana/../../evil.jpg",
        f"{ROOT}Training//evil.jpg",
        f"{ROOT}Test/Banana/..\\..\\evil.jpg",
        f"{ROOT}Test/C:/evil.jpg",
        "../evil.jpg",
        "/evil.jpg",
        "../../Training/Banana/evil.jpg",
        f"papers/../{ROOT}Training/Banana/evil.jpg",
    ],
)
def test_a_path_out_of_the_folder_is_refused(server, pictures, tmp_path, name):
    refuse(server, pictures | {name: "evil"}, tmp_path)


def test_a_link_is_refused(server, pictures, tmp_path):
    link = zipfile.ZipInfo(f"{ROOT}Training/Banana/9_100.jpg")
    link.create_system, link.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
    refuse(server, pictures | {link: "/etc/passwd"}, tmp_path)


def refuse(server, members, tmp_path):
    server.content = pack(members)
    with pytest.raises(DownloadError, match="is unsafe and not unpacked"):
        download_fruits_360(tmp_path / "home" / "fruits")
    assert files(tmp_path / "home") == [ARCHIVE]
    assert not list(tmp_path.rglob("evil*"))


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({f"{ROOT}Test/Banana/2_100.jpg": None}, "'Banana' is not in both Training and Test"),
        ({f"{ROOT}Training/Banana/1_100.jpg": None}, "Training has 3 pictures, not 4"),
        ({f"{ROOT}Test/Fig/0_100.jpg": b"x"}, "it has 3 classes, not 2"),
        (
            {f"{ROOT}Training/Banana/1_100.jpg": b"text"},
            r"Training/Banana/1_100.jpg cannot be read \(the file is no picture",
        ),
    ],
)
def test_an_archive_that_is_not_whole_installs_nothing(server, pictures, tmp_path, change, fault):
    members = {name: data for name, data in (pictures | change).items() if data is not None}
    server.content = pack(members)
    with pytest.raises(DownloadError, match=fault):
        download_fruits_360(tmp_path / "home" / "fruits")
    assert files(tmp_path / "home") == [ARCHIVE]


def damaged(content):
    """Flip a byte in the middle of a picture's data, behind its name."""
    place = content.index(b"0_100.jpg") + 100
    return content[:place] + bytes([content[place] ^ 255]) + content[place + 1 :]


@pytest.mark.parametrize("spoil", [damaged, lambda content: content[:-300], lambda _: b"<html>"])
def test_a_damaged_archive_is_found_and_installs_nothing(server, tmp_path, spoil):
    server.content = spoil(server.content)
    with pytest.raises(DownloadError, match=f"{ARCHIVE} is damaged .* delete it"):
        download_fruits_360(tmp_path / "home" / "fruits")
    assert files(tmp_path / "home") == [ARCHIVE]


def test_a_disk_that_cannot_be_written_to_is_named(server, tmp_path):
    (tmp_path / "home").write_text("a file, no folder")
    with pytest.raises(DownloadError, match="Cannot bring .*home"):
        download_fruits_360(tmp_path / "home" / "fruits")


def test_what_pooch_would_advise_on_checksums_is_not_shown(server, tmp_path, monkeypatch, capsys):
    handler, records = logging.Handler(), []
    handler.emit = records.append
    monkeypatch.setattr(pooch.get_logger(), "handlers", [handler])
    download_fruits_360(tmp_path / "fruits")
    assert records == []
    assert f"Fetching {download.URL} to {tmp_path / 'fruits'}" in capsys.readouterr().out


def test_a_folder_with_something_else_is_left_alone(server, tmp_path):
    (tmp_path / "fruits").mkdir()
    (tmp_path / "fruits" / "diary.txt").write_text("mine")
    with pytest.raises(DownloadError, match="fruits is not the whole edition .* 0 classes, not 2"):
        download_fruits_360(tmp_path / "fruits")
    assert files(tmp_path / "fruits") == ["diary.txt"]
    assert server.sent == []


def test_a_picture_that_was_lost_later_is_found(server, tmp_path):
    folder = download_fruits_360(tmp_path / "fruits")
    (folder / NAMES[0]).unlink()
    with pytest.raises(DownloadError, match="Training has 3 pictures, not 4"):
        download_fruits_360(folder)
