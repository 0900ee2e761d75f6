"""Excel workbooks (.xlsx): the first sheet that has cells, its first row naming the columns."""

from __future__ import annotations

import warnings
import zipfile
from pathlib import Path

import numpy as np

from latentia.data.files import readable
from latentia.data.limits import judge
from latentia.data.tables import Table
from latentia.errors import DataError


def read_xlsx(path: Path) -> Table:
    """The cells of a sheet as they are stored: numbers, text, what formulas gave when the file was saved.

    Raises:
        DataError: a file that is no workbook, a sheet without rows, or a row that is wider than the names.
    """
    import openpyxl  # half a second to import

    with readable(path, "an Excel workbook"):
        with zipfile.ZipFile(path) as packed:
            judge(path.name, sum(part.file_size for part in packed.infolist()) // 8, path.stat().st_size)
        book = openpyxl.load_workbook(path, read_only=True, data_only=True)
        try:
            sheets = {sheet.title: _filled(sheet) for sheet in book.worksheets}
        finally:
            book.close()
    full = [title for title, rows in sheets.items() if rows]
    if not full:
        raise DataError(f"{path.name} is empty: a table needs a row of column names and a row for each datum")
    if len(full) > 1:
        others = ", ".join(full[1:])[:200]
        warnings.warn(
            f"{path.name}: sheet {full[0]!r} is read, and not {others}: save that one by itself", stacklevel=2
        )
    return _table(path, full[0], sheets[full[0]])


def _filled(sheet) -> list[tuple[int, list]]:
    """The rows that are not blank, without the empty cells at their ends, and their numbers."""
    found = []
    for number, row in enumerate(sheet.iter_rows(values_only=True), 1):
        cells = list(row)
        while cells and cells[-1] is None:
            cells.pop()
        if cells:
            found.append((number, cells))
    return found


def _table(path: Path, title: str, rows: list[tuple[int, list]]) -> Table:
    (first, head), *body = rows
    for number, cells in body:
        if len(cells) > len(head):
            raise DataError(
                f"{path.name}, sheet {title!r}, row {number}: {len(cells)} cells where row {first} names {len(head)} "
                "columns: name them all, or take out what is beside the table"
            )
    names = tuple(str(name).strip() if name is not None else f"column {j + 1}" for j, name in enumerate(head))
    columns = [[cells[j] if j < len(cells) else None for _, cells in body] for j in range(len(names))]
    # a moment is text, as it is in a .csv: `series` can order by it
    columns = [
        [cell if cell is None or isinstance(cell, (str, int, float)) else str(cell) for cell in c] for c in columns
    ]
    return Table(names, columns, path.name, np.array([number for number, _ in body]))
