"""Lists that others write, predictions and training images: any spreadsheet's encoding and delimiter, and
refusals that name the file and say what to do.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ichnos.errors import InputRefused
from ichnos.evidence.leakage import TrainingImage, read_training, write_training
from ichnos.evidence.pack.plan import EvidencePlan
from ichnos.evidence.pack.predictions import read_prediction_rows, read_predictions

ENCODINGS = ("utf-8", "utf-8-sig", "utf-16", "latin-1")
WORDS = st.text(st.characters(categories=("L", "N")), min_size=1, max_size=8)


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_predictions_may_come_from_any_spreadsheet(encoding: str, delimiter: str, tmp_path: Path) -> None:
    lines = ("patient centre expansion_probability", "sub-1 Köln 0.25", "2 Málaga 0.5")
    text = "\r\n".join(line.replace(" ", delimiter) for line in lines) + "\r\n"
    (tmp_path / "predictions.csv").write_bytes(text.encode(encoding))
    rows = read_prediction_rows(tmp_path)
    assert [(name, row["centre"]) for name, row in rows.items()] == [("1", "Köln"), ("2", "Málaga")]
    assert [float(str(row["expansion_probability"])) for row in rows.values()] == [0.25, 0.5]


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_a_training_list_with_semicolons_keeps_its_sources_apart(encoding: str, tmp_path: Path) -> None:
    table = tmp_path / "training.csv"
    text = 'image;patient;centre;split;sources\ns1;;Köln;train;"sub-A; B;"\ni1;sub-A;;;\n'
    table.write_bytes(text.encode(encoding))
    assert read_training(table) == (
        TrainingImage("s1", "", "Köln", "train", ("A", "B")),
        TrainingImage("i1", "A", "", "train"),
    )


@given(
    st.lists(
        st.builds(
            TrainingImage,
            image=WORDS,
            patient=WORDS | st.just(""),
            centre=WORDS | st.just(""),
            split=st.sampled_from(["train", "validation"]),
            sources=st.lists(WORDS, max_size=3).map(tuple),
            sha256=st.text("0123456789abcdef", max_size=8),
        ),
        max_size=4,
    )
)
def test_what_is_written_of_training_images_is_read_again(
    tmp_path_factory: pytest.TempPathFactory, images: list[TrainingImage]
) -> None:
    path = tmp_path_factory.mktemp("lists") / "training.csv"
    write_training(images, path)
    assert read_training(path) == tuple(images)


def test_a_training_list_that_is_not_there_says_which_columns_are_expected(tmp_path: Path) -> None:
    with pytest.raises(InputRefused, match=r"list\.csv is not there.*image, patient, centre, split"):
        read_training(tmp_path / "list.csv")


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"id,centre\n1,A\n", "has no column patient; its columns are id, centre"),
        (b"", "its columns are none"),
        (b"patient,centre\n1,A\nsub-1,B\n", "patient 1 more than once"),
        (b"patient,centre\n1,A,B\n", "line 2, has more fields than there are columns"),
        (b"patient,dice,dice\n1,0.5,0.6\n", "the column 'dice' more than once"),
        (b"patient,centre\0\n", "zero bytes"),
    ],
)
def test_predictions_that_cannot_be_used_are_refused_by_name(
    content: bytes, why: str, tmp_path: Path
) -> None:
    (tmp_path / "predictions.csv").write_bytes(content)
    with pytest.raises(InputRefused, match=why):
        read_prediction_rows(tmp_path)


@pytest.mark.parametrize("content", ["[0.8]", '{"dice": "high"}', '{"dice": null}'])
def test_claims_that_are_not_numbers_are_refused(content: str, tmp_path: Path) -> None:
    (tmp_path / "predictions.csv").write_text("patient\n1\n")
    (tmp_path / "claims.json").write_text(content)
    with pytest.raises(InputRefused, match=r"claims\.json is expected to map names to numbers"):
        read_predictions(tmp_path, {}, EvidencePlan())


def test_a_mask_that_the_table_promises_must_be_there(tmp_path: Path) -> None:
    (tmp_path / "predictions.csv").write_text("patient,mask_haematoma\n1,masks/1.nii.gz\n")
    with pytest.raises(InputRefused, match=r"predicted haematoma of patient 1 is not at .*correct mask_haem"):
        read_predictions(tmp_path, {}, EvidencePlan(targets=("haematoma",)))


def test_a_folder_without_training_list_knows_of_none(tmp_path: Path) -> None:
    (tmp_path / "predictions.csv").write_text("patient\n1\n")
    found = read_predictions(tmp_path, {}, EvidencePlan())
    assert (found.name, found.training, dict(found.claims)) == (tmp_path.name, None, {})
