"""Where rows come from: what is read, what is left behind, and the words of every refusal."""

from __future__ import annotations

import json
import os
import stat
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from allround.core import reading
from allround.core.errors import AllroundError
from allround.tasks.make import make_task
from allround.tasks.sources import archive as archive_module
from allround.tasks.sources.load import load_raw
from allround.tasks.sources.scikit_learn import SKLEARN
from allround.tasks.sources.stream import read_windows
from allround.tasks.sources.text_files import Columns
from allround.tasks.spec import SourceSpec

ROWS = [{"text": "one", "label": 0}, {"text": "two", "label": 1}]


def jsonl(path: Path, rows: list[dict[str, Any]] = ROWS) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def picture(path: Path, level: int) -> Path:
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((3, 2), level, np.uint8)).save(path)
    return path


def load(folder: Path, source: Any, **more: Any) -> dict[str, Any]:
    given = source if isinstance(source, str) else SourceSpec.model_validate(source)
    return load_raw(given, base_dir=folder, **more)


def cells(rows: Any) -> dict[str, list[Any]]:
    return dict(rows) if isinstance(rows, Columns) else rows[:]


def count(rows: Any) -> int:
    return rows.count if isinstance(rows, Columns) else rows.num_rows


def refuse(folder: Path, source: Any, *words: str, **more: Any) -> None:
    with pytest.raises(AllroundError) as caught:
        load(folder, source, **more)
    for word in words:
        assert word in str(caught.value), str(caught.value)


def write_csv(path: Path) -> None:
    path.write_text("text,label\none,0\ntwo,1\n")


def write_tsv(path: Path) -> None:
    path.write_text("text\tlabel\none\t0\ntwo\t1\n")


def write_json(path: Path) -> None:
    path.write_text(json.dumps(ROWS))


def write_parquet(path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.Table.from_pylist(ROWS), path)


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("a.jsonl", jsonl),
        ("a.json", write_json),
        ("a.csv", write_csv),
        ("a.tsv", write_tsv),
        ("a.parquet", write_parquet),
    ],
)
def test_single_files(tmp_path: Path, name: str, write: Callable[[Path], Any]) -> None:
    folder = tmp_path / "odd [name]*"
    folder.mkdir()
    write(folder / name)
    read = load(folder, name)
    assert list(read) == ["train"]
    assert cells(read["train"]) == {"text": ["one", "two"], "label": [0, 1]}
    assert count(load(tmp_path, str(folder / name))["train"]) == 2


def test_a_changed_file_is_read_anew_and_nothing_is_left_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import os
    import tempfile

    import datasets

    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    path = jsonl(tmp_path / "a.jsonl")
    times = path.stat()
    assert load(tmp_path, "a.jsonl")["train"]["text"][0] == "one"
    jsonl(path, [{"text": "new", "label": 0}, {"text": "two", "label": 1}])
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert load(tmp_path, "a.jsonl")["train"]["text"][0] == "new"
    assert list(temporary.iterdir()) == [] and not (tmp_path / "cache").exists()


@pytest.mark.parametrize("name", ["validation", "valid", "val", "dev"])
def test_folders_of_splits(tmp_path: Path, name: str) -> None:
    jsonl(tmp_path / "d" / "train.jsonl")
    write_csv(tmp_path / "d" / f"{name}.csv")
    jsonl(tmp_path / "d" / "test.json")
    (tmp_path / "d" / "notes.txt").write_text("x")
    assert list(load(tmp_path, "d")) == ["train", "validation", "test"]


def test_files_by_split_and_format(tmp_path: Path) -> None:
    jsonl(tmp_path / "a.txt")
    jsonl(tmp_path / "b.txt")
    read = load(tmp_path, {"train": "a.txt", "test": "b.txt", "format": "json"})
    assert list(read) == ["train", "test"]


def test_columns_are_renamed_at_once(tmp_path: Path) -> None:
    jsonl(tmp_path / "a.jsonl", [{"label": 3, "label_text": "x"}])
    read = load(tmp_path, {"path": "a.jsonl", "columns": {"label": "code", "label_text": "label"}})
    assert cells(read["train"]) == {"code": [3], "label": ["x"]}
    refuse(tmp_path, {"path": "a.jsonl", "columns": {"lable": "y"}}, "'lable' of train", "did you mean 'label'?")
    refuse(tmp_path, {"path": "a.jsonl", "columns": {"label": "label_text"}}, "another column of that name")


def test_words_that_spell_a_missing_cell(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("country,size\nNA,1.5\nDE,NA\nnull,\n")
    read = cells(load(tmp_path, "a.csv")["train"])
    assert read == {"country": ["NA", "DE", "null"], "size": [1.5, None, None]}


def test_broken_files(tmp_path: Path) -> None:
    (tmp_path / "empty.jsonl").write_text("")
    (tmp_path / "blank.jsonl").write_text("\n\n")
    (tmp_path / "head.csv").write_text("text,label\n")
    (tmp_path / "broken.jsonl").write_text('{"a": 1}\n\n{"a": \n{"a": 2}\n')
    (tmp_path / "numbers.jsonl").write_text('{"a": 1}\n3\n')
    (tmp_path / "bytes.jsonl").write_bytes(b'{"a": "\xff"}\n')
    (tmp_path / "ragged.csv").write_text("a,b\n1,2\n1,2,3\n")
    (tmp_path / "twice.csv").write_text("a,b,a\n1,2,3\n")
    (tmp_path / "fake.parquet").write_text("not parquet")
    (tmp_path / "odd.xyz").write_text("x")
    refuse(tmp_path, "empty.jsonl", "the file is empty", "put rows in it")
    refuse(tmp_path, "blank.jsonl", "the file has no rows")
    refuse(tmp_path, "head.csv", "the file has no rows")
    refuse(tmp_path, "broken.jsonl", "line 3 is not readable as JSON", "correct or remove that line")
    refuse(tmp_path, "numbers.jsonl", "line 2 is not a JSON object")
    refuse(tmp_path, "bytes.jsonl", "not UTF-8")
    refuse(tmp_path, "ragged.csv", "not readable as csv", "line 3")
    refuse(tmp_path, "twice.csv", "2 columns called 'a'")
    refuse(tmp_path, "fake.parquet", "not readable as parquet")
    refuse(tmp_path, "odd.xyz", "files ending in '.xyz' are not known", ".jsonl")
    refuse(tmp_path, "no.jsonl", "the file is not there", "check the path")
    refuse(tmp_path, {"path": "nowhere"}, "the file is not there")


@pytest.mark.parametrize("name", ["train.jsonl", "train.csv", "train.parquet"])
def test_pipes_and_devices_are_refused_at_once(tmp_path: Path, name: str) -> None:
    os.mkfifo(tmp_path / name)
    for source in (name, ".", {"train": name}):
        refuse(tmp_path, source, "is a pipe, not a file")
    (tmp_path / name).unlink()
    (tmp_path / name).symlink_to("/dev/zero")
    refuse(tmp_path, name, "is a device, not a file")
    with pytest.raises(AllroundError, match="is a device, not a file"):
        list(read_windows(tmp_path / name))


def test_a_pipe_among_images(tmp_path: Path) -> None:
    picture(tmp_path / "d" / "a" / "1.png", 1)
    (tmp_path / "d" / "b").mkdir()
    os.mkfifo(tmp_path / "d" / "b" / "1.png")
    refuse(tmp_path, "d", "1.png'", "is a pipe, not a file")


def test_an_image_of_too_many_pixels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """PIL only warns up to twice its limit."""
    from PIL import Image

    for label in ("a", "b"):
        for number in range(3):
            picture(tmp_path / "d" / label / f"{number}.png", number)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 5)
    with pytest.raises(AllroundError, match=r"image 0 of train .* cannot be read: Image size \(6 pix"):
        make_task("t", kind="classification", inputs="image", target="label", data=load(tmp_path, "d"))


def test_parquet_files_that_name_files_or_are_too_wide(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets
    import pyarrow as pa
    import pyarrow.parquet as pq

    features = datasets.Features({"image": datasets.Image(), "label": datasets.Value("int64")})
    data = picture(tmp_path / "secret.png", 7).read_bytes()
    secret = str(tmp_path / "secret.png")
    for paths, found in (([None, None], None), ([None, secret], "the file names the image")):
        images = [{"bytes": None if place else data, "path": place} for place in paths]
        rows = datasets.Dataset.from_dict({"image": images, "label": [0, 1]}, features=features)
        pq.write_table(rows.data.table, tmp_path / "a.parquet")
        if found is None:
            assert load(tmp_path, "a.parquet")["train"][1]["image"].size == (2, 3)
        else:
            refuse(tmp_path, "a.parquet", found, "column 'image' of train")
    monkeypatch.setattr(reading, "MAX_COLUMNS", 3)
    pq.write_table(pa.table({f"c{i}": [1] for i in range(4)}), tmp_path / "wide.parquet")
    refuse(tmp_path, "wide.parquet", "more than 3 columns")


def test_folders_that_say_nothing_or_too_much(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "readme.md").write_text("x")
    refuse(tmp_path, "d", "no files of rows and no images", "train.jsonl")
    jsonl(tmp_path / "d" / "dev.jsonl")
    jsonl(tmp_path / "d" / "val.jsonl")
    refuse(tmp_path, "d", "dev.jsonl and val.jsonl are both the validation split")


def test_local_paths_stay_in_the_data_folder(tmp_path: Path) -> None:
    data = tmp_path / "data"
    jsonl(data / "mood" / "train.jsonl")
    jsonl(tmp_path / "secret.jsonl")
    assert count(load(tmp_path, "mood", data_dir=data)["train"]) == 2
    for name in ("../secret.jsonl", "mood/../../secret.jsonl", "..\\secret.jsonl", str(tmp_path / "secret.jsonl")):
        refuse(tmp_path, name, "points outside the data folder", data_dir=data)
        refuse(tmp_path, {"train": name}, "points outside the data folder", data_dir=data)
    refuse(tmp_path, "CogComp/trec", "the file is not there", data_dir=data)
    for name in ("mood", "../data/mood", str(data / "mood"), "CogComp/trec"):
        refuse(tmp_path, {"hub": name}, "a local copy is in the data folder", data_dir=data)


def test_images_in_folders(tmp_path: Path) -> None:
    for i in range(3):
        picture(tmp_path / "flat" / "cat" / f"{i}.png", i)
        picture(tmp_path / "flat" / "dog [x]" / f"{i}.png", 100 + i)
    (tmp_path / "flat" / ".DS_Store").write_text("junk")
    read = load(tmp_path, "flat")["train"]
    assert read.features["label"].names == ["cat", "dog [x]"] and len(read) == 6
    assert read[5]["image"].getpixel((0, 0)) == 102
    task = make_task("pets", kind="classification", inputs="image", target="label", data={"train": read})
    assert (task.definition.modality, task.definition.labels) == ("image", ("cat", "dog [x]"))


def test_images_in_split_folders_and_in_archives(tmp_path: Path) -> None:
    files = [picture(tmp_path / "x" / "top" / s / c / "1.png", 7) for s in ("train", "val", "test") for c in "ab"]
    assert list(load(tmp_path, "x")) == ["train", "validation", "test"]
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        for file in files:
            archive.write(file, file.relative_to(tmp_path / "x"))
        archive.writestr("__MACOSX/top/1.png", b"junk")
    assert {s: len(rows) for s, rows in load(tmp_path, "x.zip").items()} == {"train": 2, "validation": 2, "test": 2}
    assert list(load(tmp_path, "x.zip/top/train")) == ["train"]
    assert load(tmp_path, "x.zip/top/val", data_dir=tmp_path)["train"][0]["image"].size == (2, 3)
    refuse(tmp_path, "x.zip/none", "no such folder in the archive")


def test_images_that_do_not_lie_as_they_should(tmp_path: Path) -> None:
    picture(tmp_path / "d" / "a" / "b" / "1.png", 1)
    picture(tmp_path / "d" / "c" / "b" / "1.png", 1)
    refuse(tmp_path, "d", "'a/b/1.png' of an image is not of the form <label>/<image> or <split>/<label>/<image>")
    picture(tmp_path / "e" / "train" / "b" / "1.png", 1)
    picture(tmp_path / "e" / "c" / "1.png", 1)
    refuse(tmp_path, "e", "some images are in split folders and some are not")
    broken = picture(tmp_path / "f" / "a" / "1.png", 1)
    picture(tmp_path / "f" / "b" / "1.png", 1)
    broken.write_bytes(broken.read_bytes()[:40])
    with pytest.raises(AllroundError, match=r"image 0 of train \(column 'image', 'a/1.png'\) cannot be read"):
        make_task("t", kind="classification", inputs="image", target="label", data=load(tmp_path, "f"))


@pytest.mark.parametrize("name", ["../evil.txt", "/evil.txt", "a/../../evil.txt", "..\\evil.txt", "C:/evil.txt"])
def test_archives_that_lead_out_are_refused(tmp_path: Path, name: str) -> None:
    inside = tmp_path / "in"
    inside.mkdir()
    with zipfile.ZipFile(inside / "x.zip", "w") as archive:
        archive.writestr("train.jsonl", '{"a": 1}\n')
        archive.writestr(name, "evil")
    refuse(inside, "x.zip", "points outside the archive", "do not use")
    assert not list(tmp_path.rglob("evil.txt"))


def test_hostile_archives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    link = zipfile.ZipInfo("a/link")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "link.zip", "w") as archive:
        archive.writestr(link, "/etc/passwd")
    refuse(tmp_path, "link.zip", "'a/link' is a link or a device")
    with zipfile.ZipFile(tmp_path / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/1.png", b"\0" * 5000)
        archive.writestr("a/2.png", b"\0" * 5000)
    monkeypatch.setattr(archive_module, "MAX_UNPACKED", 9_999)
    refuse(tmp_path, "bomb.zip", "it would take 10,000 bytes; at most 9,999 are unpacked")
    (tmp_path / "not.zip").write_text("not a zip")
    refuse(tmp_path, "not.zip", "not readable as a zip file")


def test_an_archive_that_lies_about_its_size(tmp_path: Path) -> None:
    path = tmp_path / "lie.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("train.jsonl", b"\n" * 70_000)
    data = path.read_bytes().replace((70_000).to_bytes(4, "little"), (10).to_bytes(4, "little"))
    path.write_bytes(data)
    refuse(tmp_path, "lie.zip", "not readable as a zip file")


@pytest.mark.parametrize(("packing", "sign"), [(zipfile.ZIP_DEFLATED, b"\xff"), (zipfile.ZIP_LZMA, b"\xff")])
def test_whatever_a_decompressor_raises_is_refused(tmp_path: Path, packing: int, sign: bytes) -> None:
    path = tmp_path / "x.zip"
    with zipfile.ZipFile(path, "w", packing) as archive:
        archive.writestr("train.csv", "a\n" + "1\n" * 100)
    data = path.read_bytes()
    start = 30 + len("train.csv") + (4 if packing == zipfile.ZIP_LZMA else 0)
    path.write_bytes(data[:start] + sign * 8 + data[start + 8 :])
    refuse(tmp_path, "x.zip", "not readable as a zip file")


def test_a_name_in_a_zip_file_that_is_no_text(tmp_path: Path) -> None:
    path = tmp_path / "x.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("é.csv", "a\n1\n")
    path.write_bytes(path.read_bytes().replace("é".encode(), b"\xff\xff", 1))
    refuse(tmp_path, "x.zip", "not readable as a zip file")


def test_rows_in_an_archive(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr("train.jsonl", '{"a": 1}\n')
    assert cells(load(tmp_path, "x.zip")["train"]) == {"a": [1]}


@pytest.mark.parametrize("name", SKLEARN)
def test_sets_of_scikit_learn(tmp_path: Path, name: str) -> None:
    rows = load(tmp_path, {"sklearn": name})["train"]
    assert len(rows) >= 20
    if name == "iris":
        assert rows.features["target"].names == ["setosa", "versicolor", "virginica"]
    if name == "digits":
        assert rows[0]["image"].size == (8, 8) and rows[0]["image"].getextrema() == (0, 239)


def test_an_unknown_set_of_scikit_learn(tmp_path: Path) -> None:
    refuse(tmp_path, {"sklearn": "irs"}, "it carries no such set", "did you mean 'iris'?")


def test_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    asked: list[Any] = []
    rows = datasets.Dataset.from_list(ROWS)

    def hub(*given: Any, **more: Any) -> Any:
        asked.append((given, more))
        if given[0] == "no/net":
            raise ConnectionError("Couldn't reach 'no/net' on the Hub")
        return (
            {"dev": rows, "unsupervised": rows} if given[0] == "no/train" else {"train": rows, "dev": rows, "x": rows}
        )

    monkeypatch.setattr(datasets, "load_dataset", hub)
    read = load(tmp_path, {"hub": "a/b", "config": "c", "revision": "r", "columns": {"text": "t"}})
    assert asked == [(("a/b", "c"), {"revision": "r"})]
    assert list(read) == ["train", "validation"] and read["validation"].column_names == ["t", "label"]
    assert count(load(tmp_path, "a/b")["train"]) == 2
    refuse(tmp_path, "no/net", "Couldn't reach", "check the id", "network", "--data-dir")
    refuse(tmp_path, "no/train", "no train split, only dev, unsupervised", "validation: train")
    named = load(tmp_path, {"hub": "no/train", "splits": {"unsupervised": "train", "dev": "test"}})
    assert list(named) == ["test", "train"], "other splits keep no name of their own"
    refuse(tmp_path, {"hub": "a/b", "splits": {"trian": "train"}}, "it has no split 'trian'", "did you mean 'train'?")
    asked.clear()
    jsonl(tmp_path / "here" / "train.jsonl")
    monkeypatch.chdir(tmp_path / "here")
    for name in ("../here", "./x", str(tmp_path / "here"), "~/here", "a/b/c", "csv", "imagefolder", ""):
        refuse(tmp_path, {"hub": name}, "it is not the id of a data set on the Hub", "owner/name")
    # A folder of that name where it runs, not beside the suite file: datasets would read it.
    jsonl(tmp_path / "here" / "mood" / "train.jsonl")
    for source in ({"hub": "mood"}, "mood"):
        refuse(tmp_path, source, f"has a file or folder of that name: {tmp_path / 'here' / 'mood'}", "write its path")
    assert not asked
    assert count(load(tmp_path / "here", "mood")["train"]) == 2


def test_the_bars_of_datasets_are_off_while_reading_and_then_as_before(tmp_path: Path) -> None:
    import datasets

    before = datasets.are_progress_bars_disabled()
    jsonl(tmp_path / "a.jsonl")
    load(tmp_path, "a.jsonl")
    assert datasets.are_progress_bars_disabled() == before
