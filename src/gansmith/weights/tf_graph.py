"""Finds the standing statistics of a BigGAN-deep module in its TensorFlow graph (saved_model.pb).

The published deep modules have, for each BatchNorm layer, two constants of 51 rows: means and variances by
truncation. Which constant belongs to which layer is read off the graph's edges: a layer's constants reach the
convolution after it before they reach any other; the variances are those that go through a square root. No
part of the graph is run.
"""

from dataclasses import dataclass, field

import numpy as np

from gansmith.weights import wire
from gansmith.weights.tensor_bundle import DTYPES, tensor_shape
from gansmith.weights.tf_variables import AVERAGED

FUSED = ("FusedBatchNorm", "FusedBatchNormV2", "FusedBatchNormV3")
ROOTS = ("Rsqrt", "Sqrt", "Pow")
CONVOLUTIONS = ("Conv2D",)
VARIABLES = ("VariableV2", "Variable", "VarHandleOp")
PASSING = ("Identity", "StopGradient")
FLOATS = (1, 2, 19)


@dataclass
class Node:
    """One operation: inputs by name without ports and control edges; attributes as they lie in the file."""

    name: str
    op: str
    inputs: list[str] = field(default_factory=list)
    attributes: dict[str, memoryview] = field(default_factory=dict)


def statistics(saved_model: bytes, kernels: dict[str, int]) -> list[tuple[np.ndarray, np.ndarray]]:
    """(means, variances), each (rows, C) float32, of the BatchNorm layer before each convolution.

    kernels: the convolutions' kernel variables (without averaging suffix) and their input channels, in the
    order of the network. Where the edges do not tell, the names by which the published graphs are known do.
    Raises ValueError where a file is no graph, or any layer's pair is not there or not certain.
    """
    problems = []
    for nodes in graphs(saved_model):
        try:
            pairs = _pairs(nodes, list(kernels))
            for (name, channels), (means, variances) in zip(kernels.items(), pairs):
                if not means.shape == variances.shape == (len(pairs[0][0]), channels):
                    raise ValueError(f"the tables for {name} are not those of {channels} channels")
            return pairs
        except ValueError as error:
            problems.append(str(error))
    raise ValueError(problems[0] if problems else "it holds no graph")


def _pairs(nodes: dict[str, Node], kernels: list[str]) -> list[tuple[np.ndarray, np.ndarray]]:
    try:
        return _Search(nodes, kernels).pairs()
    except ValueError as error:
        try:
            return _by_name(nodes, len(kernels))
        except ValueError:
            raise error from None


def _by_name(nodes: dict[str, Node], count: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """The tables `stack_1`, `stack_3`; `stack_6`, `stack_8`; …: five stacks per layer, two of them tables."""
    search = _Search(nodes, [])
    stacks = {name.rpartition("/")[2]: name for name in nodes}
    pairs = []
    for i in range(count):
        names = [stacks.get(f"stack_{5 * i + k}", "") for k in (1, 3)]
        tables = [search.table(name) if name else None for name in names]
        if tables[0] is None or tables[1] is None or tables[1].min() < 0:
            raise ValueError(f"stack_{5 * i + 1} and stack_{5 * i + 3} are no tables of means and variances")
        pairs.append((tables[0], tables[1]))
    return pairs


def graphs(saved_model: bytes) -> list[dict[str, Node]]:
    """The nodes of each graph of a SavedModel, by name. Raises ValueError for anything else."""
    found = []
    for number, meta in wire.fields(saved_model):
        if number != 2:
            continue
        for inner, graph in wire.fields(wire.content(meta)):
            if inner == 2:
                nodes = (_node(wire.content(v)) for n, v in wire.fields(wire.content(graph)) if n == 1)
                found.append({node.name: node for node in nodes})
    return found


def _node(message: memoryview) -> Node:
    node = Node("", "")
    for number, value in wire.fields(message):
        if number == 1:
            node.name = wire.text(value)
        elif number == 2:
            node.op = wire.text(value)
        elif number == 3 and not (name := wire.text(value)).startswith("^"):
            node.inputs.append(name.partition(":")[0])
        elif number == 5:
            pair = dict(wire.fields(wire.content(value)))
            node.attributes[wire.text(pair[1])] = wire.content(pair.get(2, memoryview(b"")))
    return node


def constant(node: Node) -> np.ndarray | None:
    """The float32 value of a Const node, or None where it is another operation or another type."""
    if node.op != "Const" or "value" not in node.attributes:
        return None
    tensor = next((v for n, v in wire.fields(node.attributes["value"]) if n == 8), None)
    if tensor is None:
        return None
    dtype, content = 0, b""
    shape: tuple[int, ...] = ()
    listed: list[float | int] = []
    for number, value in wire.fields(wire.content(tensor)):
        if number == 1:
            dtype = wire.integer(value)
        elif number == 2:
            shape = tensor_shape(wire.content(value))
        elif number == 4:
            content = bytes(wire.content(value))
        elif number in (5, 6, 13):
            listed += wire.numbers(value, {5: "f", 6: "d", 13: "v"}[number])
    if dtype not in FLOATS:
        return None
    if content:
        values = np.frombuffer(content, DTYPES[dtype])
    elif dtype == 19:  # halves are listed by their bits
        values = np.array(listed, np.uint16).view(np.float16)
    else:
        values = np.array(listed)
    count = int(np.prod(shape))
    if len(values) < count and len(values):  # the last one stands for the rest
        values = np.concatenate([values, np.repeat(values[-1:], count - len(values))])
    if len(values) != count:
        raise ValueError(f"constant {node.name} has {len(values)} values for shape {shape}")
    return values.astype(np.float32).reshape(shape)


def without_scope(name: str) -> str:
    """A variable's name without the `module/` that a program using the module puts before it."""
    return name.removeprefix("module/")


class _Search:
    """One graph and the convolutions it should have."""

    def __init__(self, nodes: dict[str, Node], kernels: list[str]) -> None:
        self.nodes, self.kernels = nodes, kernels
        self.after: dict[str, list[str]] = {}
        for node in nodes.values():
            for name in node.inputs:
                self.after.setdefault(name, []).append(node.name)

    def pairs(self) -> list[tuple[np.ndarray, np.ndarray]]:
        place = self._first_convolutions()
        pairs: list[dict[str, np.ndarray]] = [{} for _ in self.kernels]
        for name in self.nodes:
            layer = place.get(name)
            if layer is None or (table := self.table(name)) is None:
                continue
            kind = "variances" if self._is_variance(name, layer, place) else "means"
            if kind in pairs[layer] and not np.array_equal(pairs[layer][kind], table):
                raise ValueError(f"two tables of {kind} lead to {self.kernels[layer]}")
            pairs[layer][kind] = table
        for kernel, pair in zip(self.kernels, pairs):
            if missing := {"means", "variances"} - pair.keys():
                raise ValueError(f"no table of {' and '.join(sorted(missing))} leads to {kernel}")
            if pair["variances"].min() < 0:
                raise ValueError(f"the tables that lead to {kernel} are no means and variances")
        return [(pair["means"], pair["variances"]) for pair in pairs]

    def _first_convolutions(self) -> dict[str, int]:
        """Every node → the first convolution, in the network's order, that its values flow into."""
        place: dict[str, int] = {}
        numbers = {without_scope(kernel): i for i, kernel in enumerate(self.kernels)}
        convolutions: dict[int, list[str]] = {}
        for node in self.nodes.values():
            if node.op in CONVOLUTIONS and len(node.inputs) > 1:
                for variable in self._variables(node.inputs[1]):
                    if variable in numbers:
                        convolutions.setdefault(numbers[variable], []).append(node.name)
        if missing := [kernel for kernel, i in numbers.items() if i not in convolutions]:
            raise ValueError(f"no convolution with {missing[0]}")
        for number in sorted(convolutions):
            waiting = [self.nodes[name].inputs[0] for name in convolutions[number]]
            while waiting:  # backwards along the data; what an earlier convolution reached is its own
                name = waiting.pop()
                if name in place or name not in self.nodes:
                    continue
                place[name] = number
                waiting += self.nodes[name].inputs
        return place

    def _variables(self, name: str) -> set[str]:
        """The variables, without averaging suffix, that a value is computed from."""
        found, seen, waiting = set(), set(), [name]
        while waiting:
            name = waiting.pop()
            if name in seen or name not in self.nodes:
                continue
            seen.add(name)
            if self.nodes[name].op in VARIABLES:
                found.add(without_scope(AVERAGED.sub("", name)))
            waiting += self.nodes[name].inputs
        return found

    def table(self, name: str) -> np.ndarray | None:
        """The (rows, C) floats of a constant, or of a pack of constants."""
        node = self.nodes[name]
        if node.op == "Pack":
            parts = [self._constant(part) for part in node.inputs]
            if len(parts) < 2 or any(part is None or part.ndim != 1 for part in parts):
                return None
            return np.stack([part for part in parts if part is not None])
        table = constant(node)
        return table if table is not None and table.ndim == 2 and len(table) > 1 else None

    def _constant(self, name: str) -> np.ndarray | None:
        while name in self.nodes and self.nodes[name].op in PASSING and self.nodes[name].inputs:
            name = self.nodes[name].inputs[0]
        return constant(self.nodes[name]) if name in self.nodes else None

    def _is_variance(self, name: str, layer: int, place: dict[str, int]) -> bool:
        """Whether, on the way to its layer's convolution, a table goes through a root, or is a fused layer's
        fifth input.
        """
        seen, waiting = set(), [name]
        while waiting:
            name = waiting.pop()
            for after in self.after.get(name, []):
                node = self.nodes[after]
                if after in seen or place.get(after) != layer:
                    continue
                if node.op in ROOTS or (node.op in FUSED and len(node.inputs) > 4 and node.inputs[4] == name):
                    return True
                if node.op not in FUSED:
                    seen.add(after)
                    waiting.append(after)
        return False
