"""What a compiled program moves, read from its text: collectives, and the operations that move most bytes.

Loops count as often as they run (where the compiler knows it), every branch of a conditional counts. Arrays are taken
as they lie in memory, in whole tiles. What the compiler keeps in the chip's own fast memory (``S(1)`` in a layout) is
told apart.
"""
import collections
import functools
import re
from typing import NamedTuple

from train.plan_hlo import FREE, arrays, called, inside, parse, products, walk

KINDS = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute", "collective-broadcast",
         "ragged-all-to-all")
_ASYNC = {"copy-start": 0, "slice-start": 1}  # which of its arrays is the result
_WRAPPER = re.compile(r"[\w.\-]*\(.*\)|while|body|closed_call|cond|checkpoint|shard_map|branch_.*")
_SORTS = (("convolution", {"convolution", "dot"}), ("reduction", {"reduce", "reduce-window"}))


class Collective(NamedTuple):
    """Collectives of one kind.

    Attributes:
        kind: of :data:`KINDS`.
        count: how often per run.
        bytes: of their results, per chip.
        wire: bytes that a chip must at least send.
    """

    kind: str
    count: int
    bytes: float
    wire: float


class Mover(NamedTuple):
    """Operations of one sort.

    Attributes:
        operation: "convolution", "copy", "fusion", ... with the type of its result.
        source: the jax primitive they come from, and where most of their bytes are moved.
        count: how often per run.
        bytes: read and written.
        memory_bytes: of them those outside of the fast memory.
    """

    operation: str
    source: str
    count: int
    bytes: float
    memory_bytes: float


class Traffic(NamedTuple):
    """What :func:`read` finds; bytes per run and chip.

    Attributes:
        collectives: by kind.
        movers: largest first.
        memory_bytes: of all movers.
        products: floating-point operations of convolutions and matrix products, with padding.
        repeats: by what products and bytes grow when loops count as often as they run.
    """

    collectives: list[Collective]
    movers: list[Mover]
    memory_bytes: float
    products: float
    repeats: tuple[float, float]


def read(text: str, *, chips: int = 1) -> Traffic:
    """Collectives and byte movers of a compiled program (``compiled.as_text()``) on so many chips."""
    computations, entry = parse(text)
    shapes = {name: {each.name: each.shape for each in body} for name, body in computations.items()}

    @functools.cache
    def related(computation):
        """By name: what makes an array, and its first user."""
        body = computations[computation]
        return ({each.name: each for each in body},
                {operand: each for each in reversed(body) for operand in each.operands})

    kinds, groups = {}, {}
    totals = collections.Counter()
    for computation, each, times in walk(computations, entry, 1):
        inner = computations.get(called(each, "calls"), [])
        moved, outside = (_bytes(each, shapes[computation], inner, fast) for fast in (True, False))
        operations = sum(products(part, shapes[name]) for name, part in inside(computations, computation, each))
        totals.update(bytes=moved * times, bytes_once=moved, products=operations * times, products_once=operations,
                      outside=outside * times)
        for kind, size, attributes in _collectives(computations, computation, each):
            old = kinds.get(kind, Collective(kind, 0, 0, 0))
            wire = wire_bytes(kind, size, _group_size(attributes, chips))
            kinds[kind] = Collective(kind, old.count + times, old.bytes + size * times, old.wire + wire * times)
        if moved:
            work = _served(each, shapes[computation], *related(computation)) if each.opcode in _ASYNC else each
            operation = _operation(work, computations.get(called(work, "calls"), []))
            primitive, place = _source(work.attributes)
            group = groups.setdefault((operation, primitive), [0, collections.Counter(), 0])
            group[0] += times
            group[1][place] += moved * times
            group[2] += outside * times
    movers = [Mover(operation, f"{primitive} in {places.most_common(1)[0][0]}", count, sum(places.values()), outside)
              for (operation, primitive), (count, places, outside) in groups.items()]
    repeats = tuple(totals[name] / totals[f"{name}_once"] if totals[f"{name}_once"] else 1.0
                    for name in ("products", "bytes"))
    return Traffic(sorted(kinds.values()), sorted(movers, key=lambda mover: -mover.bytes), totals["outside"],
                   totals["products"], repeats)


def _collectives(computations, computation, each):
    """Kind, bytes of the result and attributes of each collective that an instruction is or has fused.

    A TPU writes a reduce-scatter as a fusion of an all-reduce and a slice.
    """
    for _, part in inside(computations, computation, each):
        kind = part.opcode.removesuffix("-start")
        if kind not in KINDS or "-done" in each.name:
            continue
        result = arrays(part.shape)
        if part.opcode.endswith("-start") and kind != "all-reduce":  # (operands, results)
            result = result[len(part.operands):]
        if part is not each and kind == "all-reduce" and "dynamic-slice" in {
                other.opcode for _, other in inside(computations, computation, each)}:
            kind, result = "reduce-scatter", arrays(each.shape)
        yield kind, sum(array.bytes for array in result), part.attributes


def wire_bytes(kind: str, size: float, parts: int) -> float:
    """What each of ``parts`` chips must at least send for a collective whose result has ``size`` bytes on each.

    >>> wire_bytes("all-reduce", 100, 4), wire_bytes("all-gather", 100, 4), wire_bytes("reduce-scatter", 100, 4)
    (150.0, 75.0, 300.0)
    """
    if kind == "all-reduce":
        return 2 * size * (parts - 1) / parts
    if kind == "reduce-scatter":  # of a whole that is parts times as large as the result
        return float(size * (parts - 1))
    return float(size) if kind.startswith("collective") else size * (parts - 1) / parts


def _group_size(attributes, chips):
    iota = re.search(r"replica_groups=\[\d+,(\d+)\]", attributes)
    listed = re.search(r"replica_groups=\{\{([\d,]+)\}", attributes)
    return int(iota[1]) if iota else len(listed[1].split(",")) if listed else chips


def _bytes(each, shapes, inner, fast):
    """Read and written, with or without the fast memory; of arrays that are only cut or updated in place, the piece."""
    if each.opcode in _ASYNC:
        ends = arrays(shapes.get(each.operands[0], ""))[:1] + [arrays(each.shape)[_ASYNC[each.opcode]]]
        return ends[-1].bytes * sum(fast or not end.fast for end in ends)
    parameters = {part.operands[0]: part.name for part in inner if part.opcode == "parameter"}
    total = 0.0
    for index, operand in enumerate(each.operands):
        whole = sum(array.bytes for array in arrays(shapes.get(operand, "")) if fast or not array.fast)
        users = [part for part in inner if parameters.get(str(index)) in part.operands]
        if each.opcode in ("dynamic-slice", "slice", "gather") and index == 0:
            whole = min(whole, sum(array.bytes for array in arrays(each.shape)))
        elif each.opcode == "dynamic-update-slice" and index == 0:
            whole = 0
        elif users and all(part.opcode in ("dynamic-slice", "slice", "gather") for part in users):
            whole = min(whole, sum(array.bytes for part in users for array in arrays(part.shape)))
        elif users and all(part.opcode == "dynamic-update-slice"
                           and part.operands[0] == parameters[str(index)] for part in users):
            whole = 0
        total += whole
    size = sum(array.bytes for array in arrays(each.shape) if fast or not array.fast)
    updates = [each] if each.opcode == "dynamic-update-slice" else inner[-1:]
    if updates and updates[0].opcode == "dynamic-update-slice":
        known = {**shapes, **{part.name: part.shape for part in inner}}
        size = min(size, sum(array.bytes for array in arrays(known.get(updates[0].operands[1], each.shape))))
    return total + size


def _served(each, shapes, makers, users):
    """Whom an asynchronous copy serves: whoever uses what it brings into the fast memory, or made what it takes out."""
    source = arrays(shapes.get(each.operands[0], ""))
    outward = bool(source) and source[0].fast
    work = each
    for _ in range(8):
        work = makers.get(work.operands[0]) if outward and work.operands else users.get(work.name)
        if work is None or work.opcode in ("parameter", "tuple", "while"):
            break
        if work.opcode not in FREE and not work.opcode.endswith(("-done", "-start", "custom-call")):
            return work
    return each


def _operation(each, inner):
    """What sort of thing it is, and the type of the largest array that it writes."""
    inside = {part.opcode for part in inner}
    sort = each.opcode.removesuffix("-start")
    if sort == "fusion":
        sort = next((sort for sort, codes in _SORTS if inside & codes), "elementwise")
        if inside <= {"parameter", "copy", "transpose", "bitcast", "reshape", "convert", "constant"}:
            sort = "copy"
    written = max(arrays(each.shape), key=lambda array: array.bytes, default=None)
    return sort if written is None else f"{sort} {written.dtype}"


def _source(attributes):
    """jax primitive and place in the network of an instruction, from its metadata."""
    name = re.search(r'op_name="([^"]*)"', attributes)
    if not name:
        return "?", "the compiler's own"
    *path, primitive = name[1].replace("\\'", "'").split("/") if "/" in name[1] else ["", name[1]]
    backward = any("transpose(" in part for part in path)
    places = [part for part in path if part and not _WRAPPER.fullmatch(part)]
    return f"{'backward ' if backward else ''}{primitive}", "/".join(places[:2]) or "the step"
