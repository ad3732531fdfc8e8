"""Shapes that are none: negative, fractions, booleans, text, products that overflow."""

{{WIRES}}

SHAPES = ("[-1]", "[1.5]", "[true]", '["3"]', "[1e3]", "[[2]]", "3", "null", "[9223372036854775807]")
OVER = "[33554432, 33554432, 33554432, 33554432, 33554432, 0]"
head = b'{"value": ["t", 0, true], "tensors": [["float32", %s]]}'
serve(in_turn(*(frame(head % shape.encode()) for shape in (OVER, *SHAPES))))

{{EMPTY}}
