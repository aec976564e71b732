"""Academic sets as formats of the intent task."""

from __future__ import annotations

from benchmarks.readers.clinc150 import read_clinc150
from searchlora.data.formats.common import mapped
from searchlora.data.formats.tables import read_labelled
from searchlora.records import Format
from searchlora.tasks.intent.dataset import checked, labelled

#: Columns of BANKING77 (Casanueva et al. 2020, arXiv:2003.04807): `train.csv` and `test.csv`.
BANKING77 = {"label": "category"}

FORMATS = tuple(
    checked(format)
    for format in (
        Format(
            name="banking77",
            description="BANKING77 (train.csv and test.csv with text,category), or one of the files",
            read=mapped(lambda source, _: read_labelled(source, BANKING77), labelled),
        ),
        Format(
            name="clinc150",
            description="CLINC150 (data_full.json and its variants), including its out-of-scope rows (oos)",
            read=mapped(lambda source, _: read_clinc150(source), labelled),
        ),
    )
)
