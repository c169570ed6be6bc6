"""The CSV files of known data sets, from made-up files of their forms."""

import pytest
from conftest import call
from PIL import Image

from data.label_file import select_faces
from tools import make_labels

# {data set: ({file: row, or None for a name of another form}, header)}
NAMED = {
    "utkface": (
        {
            "UTKFace/26_1_2_20170104023102422.jpg.chip.jpg": "26,f,asian",
            "110_0_0_20170113183929157.jpg": "110,m,white",
            "61_1_20170109142408075.jpg.chip.jpg": None,  # no race, as in three of its files
        },
        "path,age,gender,race",
    ),
    "fgnet": ({"images/001A02.JPG": "2,001", "002A15b.JPG": "15,002", "points.jpg": None}, "path,age,person"),
    "agedb": (
        {"0_MariaCallas_35_f.jpg": "35,MariaCallas,f", "7_Al_Pacino_61_m.jpg": "61,Al_Pacino,m"},
        "path,age,person,gender",
    ),
    "afad": ({"18/111/474596-0.jpg": "18,m", "AFAD-Full/72/112/9.jpg": "72,f"}, "path,age,gender"),
    "cacd": ({"14_Aaron_Johnson_0001.jpg": "14,Aaron_Johnson"}, "path,age,person"),
    "imdb-wiki": (
        {
            "01/nm0000001_rm124825600_1899-5-10_1968.jpg": "69,nm0000001",  # after her birthday on the first of July
            "17/10000217_1981-07-05_2009.jpg": "27,10000217",  # before it
            "18/10000218_0015-03-02_2010.jpg": None,  # 1,995 years
        },
        "path,age,person",
    ),
}
APPA = "file_name,num_ratings,apparent_age_avg,apparent_age_std,real_age\n"
TABLED = {
    "appa-real": (
        {
            "gt_avg_train.csv": f"{APPA}000000.jpg,36,5.06,1.3,4\n",
            "gt_avg_valid.csv": f"{APPA}004113.jpg,34,29.2,5.1,27\n",
            "gt_avg_test.csv": f"{APPA}005613.jpg,38,46,6,48\n",
        },
        "path,age,split\ntrain/000000.jpg_face.jpg,4,train\nvalid/004113.jpg_face.jpg,27,val\n"
        "test/005613.jpg_face.jpg,48,test\n",
    ),
    "fairface": (
        {
            "fairface_label_train.csv": "file,age,gender,race,service_test\ntrain/1.jpg,50-59,Male,East Asian,True\n",
            "fairface_label_val.csv": "file,age,gender,race,service_test\nval/1.jpg,more than 70,Female,Indian,False\n",
        },
        "path,label,gender,race,split\ntrain/1.jpg,50-59,m,East Asian,train\nval/1.jpg,70+,f,Indian,test\n",
    ),
    "lagenda": (
        {
            "lagenda_annotation.csv": "img_name,age,gender,face_x0,face_y0,face_x1,face_y1\n"
            "a.jpg,34,F,1,2,3,4\nb.jpg,20,M,1,2,3,4\nb.jpg,22,F,5,6,7,8\nc.jpg,-1,,1,2,3,4\n"
        },
        "path,age,gender\na.jpg,34,f\n",
    ),
}


def run(capsys, *arguments):
    status = call(make_labels, *arguments)
    return status, *capsys.readouterr()


@pytest.mark.parametrize("name", NAMED)
def test_names(name, tmp_path, capsys):
    files, header = NAMED[name]
    for path in files:
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4)).save(tmp_path / path, format="JPEG")
    status, text, notes = run(capsys, name, tmp_path)
    odd = [path for path, row in files.items() if row is None]
    assert (status, text.splitlines()[0]) == (0, header)
    assert sorted(text.splitlines()[1:]) == sorted(f"{path},{row}" for path, row in files.items() if row is not None)
    problem = "note: 1 files with names of another form, or of no age from 0 to 130, are left out: "
    assert notes == (f"{problem}{odd[0]}\n" if odd else "")


@pytest.mark.parametrize("name", TABLED)
def test_tables(name, tmp_path, capsys):
    files, expected = TABLED[name]
    for path, text in files.items():
        (tmp_path / path).write_text(text)
    status, text, _ = run(capsys, name, tmp_path)
    assert (status, text) == (0, expected)
    first = next(iter(files))
    (tmp_path / first).write_text("other\n")
    assert "has no column '" in run(capsys, name, tmp_path)[2]
    (tmp_path / first).unlink()
    status, _, errors = run(capsys, name, tmp_path)
    assert (status, errors) == (2, f"error: cannot read '{tmp_path / first}': No such file or directory\n")


def test_every_data_set_is_tested():
    assert {*NAMED, *TABLED} == {*make_labels.NAMES, *make_labels.TABLES}


def test_the_file_is_one_for_main(tmp_path, capsys):
    for k in range(6):
        Image.new("RGB", (4, 4)).save(tmp_path / f"{k}_Person{k}_{10 * k + 5}_f.jpg")
    _, text, _ = run(capsys, "agedb", tmp_path)
    (tmp_path / "faces.csv").write_text(text)
    faces = select_faces(tmp_path / "faces.csv", "strict", ("0..100+",), 0).faces
    assert sorted(faces.ages.tolist()) == [5, 15, 25, 35, 45, 55]
    assert faces.table.gender.tolist() == ["f"] * 6 and len(faces.classes) == 101


def test_bad_arguments(tmp_path, capsys):
    assert run(capsys, "celebs", tmp_path)[0] == 2
    assert "is not a folder" in run(capsys, "fgnet", tmp_path / "gone")[2]
    assert "no photograph in" in run(capsys, "fgnet", tmp_path)[2]
