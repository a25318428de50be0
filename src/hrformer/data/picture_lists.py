"""Which pictures there are: in folders of object stores, and in manifests, Parquet files with a path in each row."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any

from hrformer.data.addresses import file_system
from hrformer.data.images import SUFFIXES, is_url

MANIFEST = ".parquet"
"""Ending of a manifest's name."""

COLUMNS = ("path", "uri")
"""What the column of a manifest may be called that names the pictures."""

ROWS_AT_ONCE = 1 << 16


def find_pictures(address: str) -> list[str]:
    """Addresses of the pictures behind the address of a picture, of a folder, or a glob pattern, sorted.

    A folder is searched with those in it. An address that ends like a picture is taken for one without asking.

    Raises:
        ImportError, ValueError: see :func:`hrformer.data.addresses.file_system`.
        OSError: the folder could not be listed.
    """
    files, path = file_system(address)
    if glob.has_magic(path):
        found = files.glob(path)
    elif _is_picture(path) or (found := files.find(path)) == [path]:
        return [address]
    return [str(files.unstrip_protocol(name)) for name in sorted(found) if _is_picture(name)]


def manifest_rows(name: str) -> Iterator[list[str]]:
    """The pictures of a manifest in its order, some ten thousand at a time.

    A manifest is a Parquet file, local or behind an address, with a column of text ``path`` or ``uri``; others are
    left alone. A relative path starts at the manifest's folder. A row without a value is an empty text.

    Raises:
        ImportError: pyarrow, or what the address needs, is not installed.
        FileNotFoundError: there is no such file.
        ValueError: it is no Parquet file, or has no such column or both.
    """
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise ImportError(f"{name}: a manifest needs pyarrow: pip install 'hrformer[cluster]'") from error
    if is_url(name):
        files, path = file_system(name)
        source: Any = files.open(path)
        folder = name.rpartition("/")[0]
    else:
        source = os.path.abspath(os.path.expanduser(name))
        folder = os.path.dirname(source)
    try:
        table = pq.ParquetFile(source)
    except pa.ArrowInvalid as error:
        raise ValueError(f"{name}: a manifest must be a Parquet file: {error}") from error
    schema = table.schema_arrow
    columns = [column for column in COLUMNS if column in schema.names]
    if len(columns) != 1 or not _is_text(pa, schema.field(columns[0]).type):
        raise ValueError(
            f"{name}: a manifest needs one column of text called path or uri, found the columns "
            f"{', '.join(f'{field.name} ({field.type})' for field in schema)}"
        )
    for batch in table.iter_batches(columns=columns, batch_size=ROWS_AT_ONCE):
        yield [_absolute(value, folder) for value in batch.column(0).to_pylist()]


def _is_picture(path: str) -> bool:
    return PurePosixPath(path).suffix.lower() in SUFFIXES


def _is_text(pa: Any, kind: Any) -> bool:
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def _absolute(value: str | None, folder: str) -> str:
    if not value or is_url(value) or os.path.isabs(value):
        return value or ""
    return f"{folder}/{value}" if is_url(folder) else os.path.join(folder, value)
