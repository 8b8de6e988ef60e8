"""A network with YuNet's output layout, written as an ONNX file by hand, whose detections are known.

It detects a face of ``SIZE`` pixels with landmarks at ``LANDMARKS`` around every white cell of 8 x 8 pixels. The file
format, OpenCV's importer and its decoding of anchors, scores and landmarks are real.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

CELL = 8
SIZE = 40
LANDMARKS = np.array([[-9, -8], [9, -8], [0, 2], [-7, 11], [7, 11]], np.float64)
_STRIDES = (8, 16, 32)
_FLOAT, _INT64 = 1, 7


def white_cell(pixels: np.ndarray, column: int, row: int) -> np.ndarray:
    """Return the centre (x, y) of the cell that was painted white."""
    pixels[row * CELL : (row + 1) * CELL, column * CELL : (column + 1) * CELL] = 255
    return np.array([column + 0.5, row + 0.5]) * CELL


def write(path: Path, *, heads: Iterable[str] = ("cls", "obj", "bbox", "kps")) -> Path:
    """Write the file; without all four ``heads`` it is another network."""
    nodes, weights, outputs = [], [], []
    for stride in _STRIDES:
        for head in heads:
            kernel, bias = _head(head, stride)
            name = f"{head}_{stride}"
            channels = len(bias)
            weights += [_tensor(f"{name}_w", kernel), _tensor(f"{name}_b", bias)]
            weights.append(_tensor(f"{name}_shape", np.array([1, -1, channels], np.int64)))
            conv = [_ints("kernel_shape", [stride, stride]), _ints("strides", [stride, stride])]
            nodes.append(_node("Conv", ["input", f"{name}_w", f"{name}_b"], f"{name}_map", conv))
            nodes.append(_node("Transpose", [f"{name}_map"], f"{name}_last", [_ints("perm", [0, 2, 3, 1])]))
            nodes.append(_node("Reshape", [f"{name}_last", f"{name}_shape"], name, []))
            outputs.append(_value(name, [1, (640 // stride) ** 2, channels]))
    graph = [_field(1, node) for node in nodes] + [_field(2, b"tiny")] + [_field(5, tensor) for tensor in weights]
    graph += [_field(11, _value("input", [1, 3, 640, 640]))] + [_field(12, value) for value in outputs]
    opset = _field(1, b"") + _field(2, 12)
    path.write_bytes(_field(1, 7) + _field(7, b"".join(graph)) + _field(8, opset))
    return path


def _head(head: str, stride: int) -> tuple[np.ndarray, np.ndarray]:
    """Return kernel [O, 3, stride, stride] and bias [O] of an output; only the class at stride 8 reads the image."""
    if head == "cls" and stride == CELL:
        kernel = np.full((1, 3, stride, stride), 1 / (3 * stride * stride * 255), np.float32)
        return kernel, np.zeros(1, np.float32)
    bias = {
        "cls": np.zeros(1),
        "obj": np.ones(1),
        "bbox": np.array([0.5, 0.5, math.log(SIZE / stride), math.log(SIZE / stride)]),
        "kps": (LANDMARKS / stride + 0.5).ravel(),
    }[head].astype(np.float32)
    return np.zeros((len(bias), 3, stride, stride), np.float32), bias


def _field(number: int, value: int | bytes) -> bytes:
    """Return a protobuf field: a varint, or bytes with their length."""
    if isinstance(value, int):
        return _varint(number << 3) + _varint(value)
    return _varint(number << 3 | 2) + _varint(len(value)) + value


def _varint(value: int) -> bytes:
    value &= 2**64 - 1
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


def _node(kind: str, inputs: Sequence[str], output: str, attributes: Sequence[bytes]) -> bytes:
    named = b"".join(_field(1, name.encode()) for name in inputs)
    named += _field(2, output.encode()) + _field(3, output.encode()) + _field(4, kind.encode())
    return named + b"".join(_field(5, attribute) for attribute in attributes)


def _ints(name: str, values: Sequence[int]) -> bytes:
    return _field(1, name.encode()) + b"".join(_field(8, value) for value in values) + _field(20, 7)


def _tensor(name: str, values: np.ndarray) -> bytes:
    kind = _INT64 if values.dtype == np.int64 else _FLOAT
    dims = b"".join(_field(1, size) for size in values.shape)
    return dims + _field(2, kind) + _field(8, name.encode()) + _field(9, values.tobytes())


def _value(name: str, shape: Sequence[int]) -> bytes:
    dims = b"".join(_field(1, _field(1, size)) for size in shape)
    return _field(1, name.encode()) + _field(2, _field(1, _field(1, _FLOAT) + _field(2, dims)))
