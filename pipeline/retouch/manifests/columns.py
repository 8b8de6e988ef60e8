"""Convert a manifest file's columns to one type each; errors name the file and the column."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as kinds

from retouch.errors import ManifestError
from retouch.redaction import redacted, redacted_all
from retouch.schema import REQUEST_COLUMNS, RESULT_FIELDS

IMAGE_COLUMNS: Final = ("image", "mask", "exemplar", "control")
IMAGE_STRUCT: Final = pa.struct([("bytes", pa.large_binary()), ("path", pa.string())])
# What other projects call request columns.
SYNONYMS: Final[Mapping[str, str]] = {
    **dict.fromkeys(("img", "image_path", "image_file", "file_name", "filename", "source_image"), "image"),
    **dict.fromkeys(("mask_path", "mask_image", "conditioning_mask"), "mask"),
    **dict.fromkeys(("text", "caption", "instruction", "edit_prompt", "edit_instruction"), "prompt"),
    **dict.fromkeys(("reference", "reference_image", "ref_image"), "exemplar"),
    "box": "bbox",
    "id": "key",
}
RENAMED: Final = "input_{}"  # new name of a caller's column that would hide a column of the results
_REDACT_BATCH: Final = 1000  # texts checked together, since hardly any holds a credential
_PANDAS_INDEX: Final = re.compile(r"__index_level_\d+__")


def image_source(cell: Any) -> str | bytes | None:
    """Return what an image cell holds: an address, an image file's bytes, or nothing; of a struct bytes first."""
    found: str | bytes | None = (cell.get("bytes") or cell.get("path")) if isinstance(cell, Mapping) else cell
    return found


def canonical(name: str, column: pa.ChunkedArray, file: str) -> pa.ChunkedArray:
    """Return a request column in its type.

    ``image``, ``mask``, ``exemplar``, ``control``: string, large_binary or ``IMAGE_STRUCT``; ``bbox``: list<double>;
    ``landmarks``: list<double>, points flattened; ``seed``: int64; ``params``: string holding JSON; the others:
    string.

    Raises:
        ManifestError: the column is of a type that cannot be converted.
    """
    if kinds.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    convert = _CONVERSIONS.get(name, _text)
    try:
        converted = convert(column)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, pa.ArrowTypeError) as error:
        raise ManifestError(f"{file}: column {name!r}: {' '.join(str(error).split())}") from None
    if converted is None:
        raise ManifestError(f"{file}: column {name!r} is {column.type}; expected {expected(name)}")
    return converted


def meant(name: str, missing: Sequence[str]) -> str | None:
    """Return the missing request column that a column's name probably stands for; None if it looks like no other."""
    if (synonym := SYNONYMS.get(name.lower())) in missing:
        return synonym
    return next(iter(difflib.get_close_matches(name.lower(), missing, n=1, cutoff=0.75)), None)


def expected(name: str) -> str:
    """Return the types that a request column may have, in words."""
    return _EXPECTED.get(name, "string")


def check_texts(table: pa.Table, file: str) -> None:
    """Raise if a text is not UTF-8, which some writers of Parquet allow: reading it would fail much later.

    Raises:
        ManifestError: a column with texts, nested ones included, has one that is not UTF-8.
    """
    for name, column in zip(table.column_names, table.columns, strict=True):
        try:
            column.validate(full=True)
        except pa.ArrowInvalid as error:
            reason = " ".join(str(error).split())
            raise ManifestError(f"{file}: column {name!r} is damaged or not UTF-8: {reason}; write it again") from None


def as_structs(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return an image column as ``IMAGE_STRUCT``, so that files with addresses and files with bytes form one table."""
    if column.type == IMAGE_STRUCT:
        return column
    return pa.chunked_array([_struct_of(chunk) for chunk in column.chunks], IMAGE_STRUCT)


def map_addresses(column: pa.ChunkedArray, change: Callable[[str], str]) -> pa.ChunkedArray:
    """Return an image column with every address replaced; bytes stay as they are."""
    if kinds.is_string(column.type):
        return _mapped(column, change)
    if column.type != IMAGE_STRUCT:
        return column
    chunks = []
    for chunk in column.chunks:
        paths = _mapped(pa.chunked_array([chunk.field("path")]), change).combine_chunks()
        parts = [chunk.field("bytes"), paths]
        chunks.append(pa.StructArray.from_arrays(parts, fields=list(IMAGE_STRUCT), mask=chunk.is_null()))
    return pa.chunked_array(chunks, IMAGE_STRUCT)


def caller_columns(table: pa.Table) -> tuple[pa.Table, dict[str, str]]:
    """Return the columns that are not request columns, and the new names of those that were renamed.

    A column that would hide a column of the results is renamed. Credentials are removed from texts, because these
    columns go to the results.

    Raises:
        ManifestError: the new name is taken as well.
    """
    names = [n for n in table.column_names if n not in REQUEST_COLUMNS and not _PANDAS_INDEX.fullmatch(n)]
    hiding = {*RESULT_FIELDS.names, "fingerprint"}
    renamed = {name: RENAMED.format(name) for name in names if name in hiding or name.startswith("__")}
    for new in renamed.values():
        if new in names:
            raise ManifestError(f"column {new!r} exists, and another one would be renamed to it; rename one of them")
    kept = table.select(names).rename_columns([renamed.get(name, name) for name in names])
    for index, field in enumerate(kept.schema):
        kept = kept.set_column(index, field.name, without_credentials(_plain(kept.column(index))))
    return kept.replace_schema_metadata(None), renamed


def without_credentials(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return the column with credentials redacted in every text, nested ones included; unchanged if there are none."""
    if not _holds_text(column.type):
        return column
    cells = column.to_pylist()
    if _is_text(column.type):
        public: list[Any] = []
        for start in range(0, len(cells), _REDACT_BATCH):
            batch = cells[start : start + _REDACT_BATCH]
            text = "\n".join(cell or "" for cell in batch)
            public += batch if redacted(text) == text else redacted_all(batch)
    else:
        public = redacted_all(cells)
    return column if public == cells else pa.chunked_array([pa.array(public, column.type)])


def joined(tables: Sequence[pa.Table], files: Sequence[str]) -> pa.Table:
    """Return all files' rows in one table; a column that a file lacks is null there.

    Raises:
        ManifestError: two files have a column in types that cannot be unified.
    """
    try:
        return _typed(pa.concat_tables(tables, promote_options="permissive"))
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        types: dict[str, tuple[pa.DataType, str]] = {}
        for table, file in zip(tables, files, strict=True):
            for field in table.schema:
                kind, first = types.setdefault(field.name, (field.type, file))
                if not _unifiable(kind, field.type):
                    raise ManifestError(
                        f"column {field.name!r} is {kind} in {first} but {field.type} in {file}; cast one of them"
                    ) from None
        raise ManifestError(f"manifest files cannot be joined: {' '.join(str(error).split())}") from None


def _unifiable(one: pa.DataType, other: pa.DataType) -> bool:
    try:
        pa.unify_schemas([pa.schema([("x", one)]), pa.schema([("x", other)])], promote_options="permissive")
    except (pa.ArrowInvalid, pa.ArrowTypeError):
        return False
    return True


def _is_text(kind: pa.DataType) -> bool:
    return bool(kinds.is_string(kind) or kinds.is_large_string(kind) or kinds.is_string_view(kind))


def _holds_text(kind: pa.DataType) -> bool:
    return _is_text(kind) or any(_holds_text(kind.field(number).type) for number in range(kind.num_fields))


def _is_bytes(kind: pa.DataType) -> bool:
    tests = (kinds.is_binary, kinds.is_large_binary, kinds.is_binary_view, kinds.is_fixed_size_binary)
    return any(test(kind) for test in tests)


def _text(column: pa.ChunkedArray) -> pa.ChunkedArray | None:
    return column.cast(pa.string()) if _is_text(column.type) or kinds.is_null(column.type) else None


def _key(column: pa.ChunkedArray) -> pa.ChunkedArray | None:
    return column.cast(pa.string()) if kinds.is_integer(column.type) else _text(column)


def _seed(column: pa.ChunkedArray) -> pa.ChunkedArray | None:
    # pandas turns integers with a gap into floats; the cast refuses fractions.
    fits = kinds.is_integer(column.type) or kinds.is_floating(column.type) or kinds.is_null(column.type)
    if kinds.is_floating(column.type):
        column = pc.if_else(pc.is_nan(column), None, column)
    return column.cast(pa.int64()) if fits else None


def _bbox(column: pa.ChunkedArray) -> pa.ChunkedArray | None:
    kind = column.type
    if kinds.is_null(kind):
        return column.cast(pa.list_(pa.float64()))
    listed = kinds.is_list(kind) or kinds.is_large_list(kind) or kinds.is_fixed_size_list(kind)
    if not listed or not _is_number(kind.value_type):
        return None
    return column.cast(pa.list_(pa.float64()))


def _is_number(kind: pa.DataType) -> bool:
    return bool(kinds.is_integer(kind) or kinds.is_floating(kind))


def _landmarks(column: pa.ChunkedArray) -> pa.ChunkedArray | None:
    """Return flat lists x0, y0, x1, y1, ... as they are; lists of points flattened."""
    kind = column.type
    nested = kinds.is_list(kind) or kinds.is_large_list(kind) or kinds.is_fixed_size_list(kind)
    if nested and not _is_number(kind.value_type):
        inner = _bbox(pa.chunked_array([chunk.flatten() for chunk in column.chunks], kind.value_type))
        if inner is None:
            return None
        flat = (None if cell is None else [n for point in cell for n in point or [None]] for cell in column.to_pylist())
        return pa.chunked_array([pa.array(flat, pa.list_(pa.float64()))])
    return _bbox(column)


def _params(column: pa.ChunkedArray) -> pa.ChunkedArray | None:
    if not (kinds.is_struct(column.type) or kinds.is_map(column.type)):
        return _text(column)
    cells = (None if cell is None else dict(cell) for cell in column.to_pylist())
    texts = [None if cell is None else _json({n: v for n, v in cell.items() if v is not None}) for cell in cells]
    return pa.chunked_array([pa.array(texts, pa.string())])


def _json(cell: Mapping[str, Any]) -> str:
    try:
        return json.dumps(cell, sort_keys=True)
    except TypeError as error:
        raise pa.ArrowInvalid(f"{error}; use numbers, texts, lists and mappings") from None


def _image(column: pa.ChunkedArray) -> pa.ChunkedArray | None:
    kind = column.type
    if _is_text(kind) or kinds.is_null(kind):
        return column.cast(pa.string())
    if _is_bytes(kind):
        return column.cast(pa.large_binary())
    if not kinds.is_struct(kind):
        return None
    fields = {field.name: field.type for field in kind}
    data, path = fields.get("bytes", pa.null()), fields.get("path", pa.null())
    known = {"bytes", "path"} & set(fields)
    if not known or not (_is_bytes(data) or kinds.is_null(data)) or not (_is_text(path) or kinds.is_null(path)):
        return None
    return pa.chunked_array([_struct_of(chunk) for chunk in column.chunks], IMAGE_STRUCT)


def _struct_of(chunk: pa.Array) -> pa.StructArray:
    """Return a chunk of addresses, bytes or structs as ``IMAGE_STRUCT``."""
    parts: dict[str, pa.Array] = {}
    if kinds.is_struct(chunk.type):
        parts = {field.name: chunk.field(field.name) for field in chunk.type}
    elif _is_text(chunk.type):
        parts = {"path": chunk}
    else:
        parts = {"bytes": chunk}
    arrays = [parts[f.name].cast(f.type) if f.name in parts else pa.nulls(len(chunk), f.type) for f in IMAGE_STRUCT]
    return pa.StructArray.from_arrays(arrays, fields=list(IMAGE_STRUCT), mask=chunk.is_null())


def _mapped(column: pa.ChunkedArray, change: Callable[[str], str]) -> pa.ChunkedArray:
    return pa.chunked_array([pa.array([None if c is None else change(c) for c in column.to_pylist()], pa.string())])


def _plain(column: pa.ChunkedArray) -> pa.ChunkedArray:
    return column.cast(column.type.value_type) if kinds.is_dictionary(column.type) else column


def _typed(table: pa.Table) -> pa.Table:
    """Cast columns of type null to string: results files with and without values must have one type."""
    fields = [field.with_type(pa.string()) if kinds.is_null(field.type) else field for field in table.schema]
    return table.cast(pa.schema(fields))


_CONVERSIONS: Final[Mapping[str, Callable[[pa.ChunkedArray], pa.ChunkedArray | None]]] = {
    **dict.fromkeys(IMAGE_COLUMNS, _image),
    "key": _key,
    "seed": _seed,
    "bbox": _bbox,
    "landmarks": _landmarks,
    "params": _params,
}
_EXPECTED: Final = {
    **dict.fromkeys(IMAGE_COLUMNS, "string (an address), binary, or struct<bytes, path>"),
    "key": "string or integer",
    "seed": "integer",
    "bbox": "list of numbers x0, y0, x1, y1",
    "landmarks": "list of points x, y, or of their numbers",
    "params": "string (JSON), struct or map",
}
