"""The text of a compiled program: arrays, instructions, computations, and how often each of them runs."""
import math
import re
from typing import Iterator, NamedTuple

FREE = {"parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all", "partition-id", "replica-id",
        "iota", "opt-barrier", "add-dependency"}  # move nothing
_SIZES = {"pred": 1, "s4": 0.5, "u4": 0.5, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "s16": 2, "u16": 2, "f32": 4,
          "s32": 4, "u32": 4, "f64": 8, "s64": 8, "u64": 8, "c64": 8, "c128": 16, "token": 0, "opaque": 0}
_ARRAY = re.compile(r"\b([a-z]+[0-9]*(?:e\d+m\d+\w*)?)\[([\d,<= ]*)\](\{[^{}]*\})?")
_INSTRUCTION = re.compile(r"\s*(?:ROOT\s+)?%?([\w.\-]+)\s+=\s+(\(.*?\)|\S+)\s+([\w\-]+)\(")  # name, shape, opcode


class Array(NamedTuple):
    """One array of a shape: element type, sides, bytes, and whether it lies in the fast memory."""

    dtype: str
    sides: tuple[int, ...]
    bytes: float
    fast: bool


class Instruction(NamedTuple):
    """One line of a computation; ``operands`` are names, or what a constant or parameter has instead."""

    name: str
    shape: str
    opcode: str
    operands: tuple[str, ...]
    attributes: str


def arrays(shape: str) -> list[Array]:
    """The arrays of a shape.

    >>> arrays("(bf16[8,128]{1,0:T(8,128)(2,1)S(1)}, f32[])")
    [Array(dtype='bf16', sides=(8, 128), bytes=2048, fast=True), Array(dtype='f32', sides=(), bytes=4, fast=False)]
    """
    found = []
    for dtype, sides, layout in _ARRAY.findall(shape):
        sides = tuple(int(side.strip(" <=")) for side in sides.split(",") if side.strip())
        size = _SIZES.get(dtype, 1 if dtype.startswith("f8") else 4)
        fast = bool(re.search(r"S\([1-9]", layout))
        found.append(Array(dtype, sides, math.prod(_padded(sides, layout)) * size, fast))
    return found


def _padded(sides, layout):
    """Sides as they lie in memory: the innermost ones filled up to whole tiles, as ``{1,0:T(8,128)}``."""
    tiled = re.match(r"\{([\d,]*):T\(([\d,]+)\)", layout)
    sides = list(sides)
    if tiled and tiled[1]:
        for axis, tile in zip(tiled[1].split(","), reversed(tiled[2].split(","))):
            sides[int(axis)] = -(-sides[int(axis)] // int(tile)) * int(tile)
    return sides


def parse(text: str) -> tuple[dict[str, list[Instruction]], str]:
    """Every computation of a program's text, by name, and the name of the entry."""
    computations, entry, current = {}, "", None
    for line in text.splitlines():
        head = re.match(r"(ENTRY\s+)?%?([\w.\-]+)\s+\(.*->.*\{\s*$", line)
        if head:
            current = computations.setdefault(head[2], [])
            entry = head[2] if head[1] else entry
        elif line.startswith("}"):
            current = None
        elif current is not None and (instruction := _instruction(line)):
            current.append(instruction)
    return computations, entry


def _instruction(line):
    head = _INSTRUCTION.match(line)
    if not head:
        return None
    closing = _closing(line, head.end() - 1)
    inner = line[head.end():closing]
    return Instruction(*head.groups(), tuple(re.findall(r"%([\w.\-]+)", inner) or inner.split()), line[closing + 1:])


def _closing(text, opening):
    """Place of the bracket that closes the one at ``opening``."""
    depth = 0
    for place in range(opening, len(text)):
        depth += (text[place] in "([{") - (text[place] in ")]}")
        if not depth:
            return place
    raise ValueError(f"a bracket is never closed: {text[opening:opening + 80]}")


def walk(computations: dict, name: str, times: int) -> Iterator[tuple[str, Instruction, int]]:
    """Every instruction that is a kernel of its own: (its computation, itself, how often it runs)."""
    for each in computations.get(name, []):
        if each.opcode == "while":
            yield from walk(computations, called(each, "body"), times * trips(computations, each))
        elif each.opcode == "conditional":
            branches = re.search(r"branch_computations=\{([^}]*)\}", each.attributes)
            names = branches[1].split(",") if branches else [called(each, "true_computation"),
                                                             called(each, "false_computation")]
            for branch in names:
                yield from walk(computations, branch.strip().lstrip("%"), times)
        elif each.opcode == "call":
            yield from walk(computations, called(each, "to_apply"), times)
        elif "ConcatBitcast" in each.attributes:
            continue
        elif each.opcode not in FREE and not each.opcode.endswith(("-done", "-update")):
            yield name, each, times


def trips(computations: dict, loop: Instruction) -> int:
    """How often a loop runs: as the compiler says, or up to the one bound in its condition ``i < n``; else 1."""
    known = re.search(r'known_trip_count"?:\s*\{"?n"?:\s*"?(\d+)', loop.attributes)
    if known:
        return int(known[1])
    condition = computations.get(called(loop, "condition"), [])
    bounds = [each.operands[0] for each in condition if each.opcode == "constant" and each.shape.startswith("s32[]")]
    below = any("direction=LT" in part.attributes for each in condition for _, part in inside(computations, "", each))
    return int(bounds[0]) if below and len(bounds) == 1 else 1


def called(each: Instruction, attribute: str) -> str:
    """The computation that an attribute names, as ``calls=%name``; or an empty text."""
    found = re.search(rf"\b{attribute}=%?([\w.\-]+)", each.attributes)
    return found[1] if found else ""


def inside(computations: dict, computation: str, each: Instruction) -> Iterator[tuple[str, Instruction]]:
    """An instruction, or those of the computation it is a fusion of: (computation, instruction)."""
    name = called(each, "calls")
    if name not in computations:
        yield computation, each
        return
    for part in computations[name]:
        yield from inside(computations, name, part)


def products(each: Instruction, shapes: dict[str, str]) -> float:
    """Operations of a convolution or a matrix product: two for each output, window place and summed channel."""
    if each.opcode not in ("convolution", "dot"):
        return 0.0
    outputs = math.prod(arrays(each.shape)[0].sides)
    lhs, rhs = (arrays(shapes.get(name, ""))[:1] for name in each.operands[:2])
    if each.opcode == "dot":
        summed = re.search(r"lhs_contracting_dims=\{([\d,]*)\}", each.attributes)
        if not lhs or not summed:
            return 0.0
        return 2.0 * outputs * math.prod(lhs[0].sides[int(i)] for i in summed[1].split(",") if i)
    labels = re.search(r"dim_labels=\w+_(\w+)->", each.attributes)
    window = re.search(r"window=\{[^}]*?size=([\dx]+)", each.attributes)
    if not rhs or not labels:
        return 0.0
    places = math.prod(int(side) for side in window[1].split("x")) if window else 1
    return 2.0 * outputs * places * rhs[0].sides[labels[1].index("i")]
