"""Tiny ONNX files with the inputs and outputs of OpenCV's three networks, written without the package `onnx`.

An ONNX file is a protocol buffer: field number and kind, then a number, or a length and that many bytes.
"""

import numpy as np


def number(n):
    n, out = n & (2**64 - 1), b""
    while n > 127:
        out, n = out + bytes([n & 127 | 128]), n >> 7
    return out + bytes([n])


def field(key, value):
    if isinstance(value, int):
        return number(key << 3) + number(value)
    value = value.encode() if isinstance(value, str) else value
    return number(key << 3 | 2) + number(len(value)) + value


def tensor(name, array):
    kind = {"float32": 1, "int64": 7}[str(array.dtype)]
    dims = b"".join(field(1, size) for size in array.shape)
    return field(5, dims + field(2, kind) + field(8, name) + field(9, array.tobytes()))


def node(kind, inputs, output, **ints):
    names = b"".join(field(1, name) for name in inputs) + field(2, output) + field(4, kind)
    for name, values in ints.items():
        values = b"".join(field(8, v) for v in values) if not isinstance(values, int) else field(3, values)
        names += field(5, field(1, name) + values + field(20, 7 if values[:1] == b"@" else 2))
    return field(1, names)


def place(key, name, shape):
    dims = b"".join(field(1, field(1, s) if isinstance(s, int) else field(2, s)) for s in shape)
    return field(key, field(1, name) + field(2, field(1, field(1, 1) + field(2, dims))))


def save(path, parts, inputs, outputs):
    graph = b"".join(parts) + field(2, "tiny")
    graph += b"".join(place(11, *item) for item in inputs) + b"".join(place(12, *item) for item in outputs)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(field(1, 8) + field(7, graph) + field(8, field(1, "") + field(2, 17)))
    return path


def pooled(path, outputs, *, weights=None, side=112, cell=16, name="data"):
    """(1, 3, side, side) -> (1, outputs): a linear layer on the means of `cell` x `cell` pixels."""
    cells = 3 * (side // cell) ** 2
    if weights is None:
        weights = np.random.default_rng(0).standard_normal((cells, outputs))
    parts = [
        node("AveragePool", [name], "means", kernel_shape=[cell, cell], strides=[cell, cell]),
        node("Flatten", ["means"], "row", axis=1),
        node("MatMul", ["row", "weights"], "label"),
        tensor("weights", np.asarray(weights, dtype=np.float32)),
    ]
    return save(path, parts, [(name, [1, 3, side, side])], [("label", [1, outputs])])


def yunet(path, size=("height", "width"), points=((-1, -1), (1, -1), (0, 0), (-1, 1), (1, 1)), side=4.0):
    """YuNet's signature: at stride 32 a cell that is red all over is a face, `side` cells wide, about its
    middle; `points` are its landmarks from there, in cells."""
    parts, outputs = [tensor("shape", np.array([1, -1, 0])[:2])], []
    bias = {"cls": [0], "obj": [0], "bbox": [0.5, 0.5, np.log(side), np.log(side)]}
    bias["kps"] = (np.array(points) + 0.5).ravel()
    for stride in (8, 16, 32):
        for kind, values in bias.items():
            n, name = len(values), f"{kind}_{stride}"
            kernel = np.zeros((n, 3, stride, stride), dtype=np.float32)
            if kind in ("cls", "obj") and stride == 32:
                kernel[:, 2] = 1 / (255 * stride**2)  # blue, green, red
                kernel[:, :2] = -kernel[:, 2:]
            parts += [
                tensor(f"w_{name}", kernel),
                tensor(f"b_{name}", np.asarray(values, dtype=np.float32)),
                tensor(f"s_{name}", np.array([1, -1, n])),
                node("Conv", ["input", f"w_{name}", f"b_{name}"], f"c_{name}", strides=[stride, stride]),
                node("Transpose", [f"c_{name}"], f"t_{name}", perm=[0, 2, 3, 1]),
                node("Reshape", [f"t_{name}", f"s_{name}"], name),
            ]
            outputs.append((name, [1, f"n_{stride}", n]))
    return save(path, parts[1:], [("input", [1, 3, *size])], outputs)
